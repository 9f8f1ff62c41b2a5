/* SPDX-License-Identifier: GPL-2.0 */
/* What thunderbolt.c gives to net/kapi: services, XDomains, rings, delayed work. */
#ifndef USB4_THUNDERBOLT_H
#define USB4_THUNDERBOLT_H

#include <linux/thunderbolt.h>
#include <linux/workqueue.h>

/* Protocols of the control channel. */
enum usb4_tb_protocol {
	USB4_TB_STOCK,
	USB4_TB_NATIVE,
};

/* UUIDs and settings of our two property directories; bytes in text order. */
struct usb4_tb_identity {
	u8 stock_directory[16];
	u8 stock_protocol[16];
	u8 native_directory[16];
	u8 native_protocol[16];
	u32 stock_settings;
	u32 native_features;
};

bool usb4_tb_is_amd_host(void);
/* What Rust is told of, called with the context that usb4_tb_start() was given. */
struct usb4_tb_calls {
	int (*probe)(void *context, struct tb_service *svc);
	void (*remove)(void *context, struct tb_service *svc);
	void (*suspend)(void *context, struct tb_service *svc);
	void (*resume)(void *context, struct tb_service *svc);
	void (*gone)(void *context, struct device *dev);
	void (*message)(void *context, const u8 *bytes, size_t len);
};

int usb4_tb_start(const struct usb4_tb_identity *identity, const struct usb4_tb_calls *calls, void *context);
int usb4_tb_listen(void);
void usb4_tb_deafen(void);
void usb4_tb_unbind(void);
void usb4_tb_leave(void);

bool usb4_tb_service_is(const struct tb_service *svc, const char *key);
struct tb_xdomain *usb4_tb_service_parent(struct tb_service *svc);
struct tb_xdomain *usb4_tb_xdomain_get(struct tb_xdomain *xd);
void usb4_tb_xdomain_put(struct tb_xdomain *xd);
bool usb4_tb_xdomain_dead(const struct tb_xdomain *xd);
const char *usb4_tb_xdomain_name(const struct tb_xdomain *xd);
void usb4_tb_device_get(struct device *dev);
void usb4_tb_device_put(struct device *dev);
struct device *usb4_tb_dma(struct tb_xdomain *xd);
u32 usb4_tb_ports_below(const struct tb_xdomain *xd, u32 domain, u32 below);
u32 usb4_tb_speed(const struct tb_xdomain *xd);
u32 usb4_tb_width(const struct tb_xdomain *xd);

void usb4_tb_ring_wake(struct tb_ring *ring, void (*wake)(void *), void *data);
void usb4_tb_ring_flow(struct tb_ring *ring, bool e2e);
void usb4_tb_ring_stop(struct tb_ring *ring);
void usb4_tb_ring_unmask(struct tb_ring *ring);
void usb4_tb_ring_rearm(struct tb_ring *ring);
int usb4_tb_ring_take_vector(struct tb_ring *ring);
void usb4_tb_ring_throttle(struct tb_ring *ring, u32 nsec);
void usb4_tb_doorbell(struct tb_ring *ring, u32 value);
void usb4_dma_wmb(void);
void usb4_dma_rmb(void);

struct usb4_work {
	struct delayed_work work;
};

int usb4_work_start(void);
void usb4_work_stop(void);
void usb4_work_init(struct usb4_work *work, void (*fn)(struct work_struct *), bool waits);
void usb4_work_kick(struct usb4_work *work);
void usb4_work_after(struct usb4_work *work, u64 nsec);
void usb4_work_flush(struct usb4_work *work);
void usb4_work_close(struct usb4_work *work);

#endif
