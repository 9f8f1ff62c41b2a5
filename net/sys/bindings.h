/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The only list of C headers that the Rust crates bind, and the declarations of helpers.c.
 *
 * Objects of the RDMA core that carry a piece of ours have it after the core's part. What it points to belongs to
 * Rust; C never looks at it.
 */
#ifndef USB4_BINDINGS_H
#define USB4_BINDINGS_H

#include <linux/etherdevice.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/mm.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/rtnetlink.h>
#include <linux/skbuff.h>
#include <linux/spinlock.h>
#include <linux/vmalloc.h>
#include <rdma/ib_mad.h>
#include <rdma/ib_umem.h>
#include <rdma/ib_verbs.h>
#include <rdma/uverbs_ioctl.h>
#include <rdma/ib_user_verbs.h>

struct usb4_device {
	struct ib_device ib;
	void *inner;
};

struct usb4_ucontext {
	struct ib_ucontext ib;
};

struct usb4_pd {
	struct ib_pd ib;
	u64 number;
};

struct usb4_cq {
	struct ib_cq ib;
	void *inner;
};

struct usb4_srq {
	struct ib_srq ib;
	void *inner;
};

struct usb4_qp {
	struct ib_qp ib;
	void *inner;
};

struct usb4_ah {
	struct ib_ah ib;
	void *inner;
};

struct usb4_mw {
	struct ib_mw ib;
	void *inner;
};

struct usb4_mr {
	struct ib_mr ib;
	void *inner;
};

struct usb4_mmap {
	struct rdma_user_mmap_entry entry;
	void *inner;
};

/* An address vector in one flat piece. */
struct usb4_path {
	u8 dmac[6];
	u32 tag; /* of the VLAN: EtherType, number; 0: none */
	u8 ipv6;
	u8 hop_limit;
	u8 traffic_class;
	u32 flow_label;
	u32 sgid_index;
	u8 sgid[16];
	u8 dgid[16];
};

/* What an address vector of the core says. */
struct usb4_ah_facts {
	struct usb4_path path; /* but for `dmac` */
	bool roce; /* it and its source address are of RoCEv2 */
	bool at_netdev; /* the source address is one of this netdev, */
	bool at_vlan; /* or of a VLAN directly above it */
	bool to_ipv4;
};

/* A received frame, seen from its netdev's ingress hook. */
struct usb4_skb_facts {
	u32 len;
	u16 vlan_proto; /* 0: no tag */
	u16 vlan_id;
	u16 protocol;
	bool to_host; /* its Ethernet address is the netdev's, or a group's */
	bool to_other; /* somebody else's */
	bool whole; /* nothing that `usb4_skb_segment` would not show: no fragment list, no aggregate */
};

/* A trace event of a queue pair. */
enum usb4_trace {
	USB4_TRACE_RETRY,
	USB4_TRACE_TIMEOUT,
	USB4_TRACE_NAK,
	USB4_TRACE_DROP,
	USB4_TRACE_ERROR,
};

/* What a trace event shows of a packet or of a run of them, see usb4_rdma_trace.h. */
struct usb4_packet {
	const u8 *head;
	u32 head_len;
	u32 qpn;
	u32 bytes;
	u32 window;
	u16 packets;
	u16 mtu;
	u16 sport;
	u8 by;
	bool out;
	u8 src[16];
	u8 dst[16];
};

/* One of our own attributes of an object that `rdma resource show -dd` lists. */
/* What a frame has borrowed. */
struct usb4_loan {
	struct ubuf_info ubuf;
	void (*back)(struct usb4_loan *loan);
};

struct usb4_detail {
	const char *name;
	u64 value;
	bool hex;
};

/* A dma-buf that is mapped for the CPU. */
struct usb4_dmabuf {
	void *address;
	bool iomem;
};

bool usb4_trace_is_on(void);
void usb4_trace_state(struct ib_device *ib, u32 qpn, u32 from, u32 to);
void usb4_trace_event(struct ib_device *ib, enum usb4_trace kind, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what);
bool usb4_trace_shows_packets(void);
void usb4_trace_packet(struct ib_device *ib, const struct usb4_packet *packet);
int usb4_res_put(struct sk_buff *msg, const struct usb4_detail *details, size_t count);

/* The driver's table and its life in the core. */
struct ib_device *usb4_ib_alloc(struct net_device *ndev);
int usb4_ib_register(struct ib_device *ib, const char *name);
bool usb4_ib_try_get(struct ib_device *ib);
void usb4_ib_get_ref(struct ib_device *ib);
void usb4_ib_put_ref(struct ib_device *ib);
void usb4_ib_event(struct ib_device *ib, struct ib_cq *cq, struct ib_qp *qp, enum ib_event_type type);
void usb4_ib_port_event(struct ib_device *ib, struct net_device *ndev);
void usb4_link_register(void);
void usb4_link_unregister(void);
bool usb4_hint_may_tell(void);
const char *usb4_ib_name(const struct ib_device *ib);
void usb4_relink_later(unsigned int ms);
void usb4_relink_cancel(void);
int usb4_notifier_register(void);
void usb4_notifier_unregister(void);

/* Objects of user space. */
struct ib_ucontext *usb4_udata_context(struct ib_udata *udata);
struct ib_udata *usb4_attrs_udata(struct uverbs_attr_bundle *attrs);
size_t usb4_udata_inlen(const struct ib_udata *udata);
size_t usb4_udata_outlen(const struct ib_udata *udata);
int usb4_udata_reply(struct ib_udata *udata, void *src, size_t len);
int usb4_udata_read(struct ib_udata *udata, void *dest, size_t len);
int usb4_user_write(u64 address, const void *src, size_t len);
void usb4_srq_limit_event(struct ib_srq *srq);
u64 usb4_mmap_offset(const struct rdma_user_mmap_entry *entry);
void usb4_cq_complete(struct ib_cq *cq);
struct ib_mr *usb4_err_mr(int err);
bool usb4_qp_modify_ok(enum ib_qp_state from, enum ib_qp_state to, enum ib_qp_type type, int mask);
bool usb4_ah_facts(struct rdma_ah_attr *ah, struct net_device *ndev, struct usb4_ah_facts *facts);
void usb4_ah_dmac(struct rdma_ah_attr *ah, u8 *dmac);
u16 usb4_udp_sport(u32 flow_label, u32 qpn, u32 dest_qpn);
const struct ib_gid_attr *usb4_gid_attr(struct ib_device *ib, u32 index);
void usb4_gid_attr_put(const struct ib_gid_attr *attr);
void usb4_ah_attr_set(struct rdma_ah_attr *ah, const struct usb4_path *path, const struct ib_gid_attr *attr);
bool usb4_gid_is_ours(struct ib_device *ib, struct net_device *ndev, const u8 *gid);
bool usb4_rxe_is_on(struct net_device *ndev);
void usb4_ah_keep(struct rdma_ah_attr *dest, const struct rdma_ah_attr *src);
struct rdma_hw_stats *usb4_stats_alloc(const struct rdma_stat_desc *descs, int count);
void usb4_stats_set(struct rdma_hw_stats *stats, int index, u64 value);
int usb4_stats_count(const struct rdma_hw_stats *stats);

/* Memory. */
struct ib_umem *usb4_umem_get(struct ib_device *ib, u64 start, u64 length, int access);
bool usb4_umem_is_err(const struct ib_umem *umem);
long usb4_umem_err(const struct ib_umem *umem);
size_t usb4_umem_page_count(struct ib_umem *umem);
size_t usb4_umem_pages(struct ib_umem *umem, struct page **pages, size_t count);
struct ib_umem_odp *usb4_paged_get(struct ib_device *ib, u64 start, u64 length, int access, long *err);
size_t usb4_paged_count(struct ib_umem_odp *odp);
void usb4_paged_own(struct ib_umem_odp *odp, void *owner);
int usb4_paged_bring(struct ib_umem_odp *odp, size_t first, size_t count, bool write, bool fault);
void usb4_paged_release(struct ib_umem_odp *odp);
bool usb4_paged_possible(void);
int usb4_paging_start(void);
void usb4_paging_stop(void);
struct workqueue_struct *usb4_paging_queue(void);
void usb4_page_read(void *to, struct page *page, size_t offset, size_t len);
void usb4_page_flush(struct page *page);
void *usb4_page_map(struct page *page);
void usb4_page_unmap(void *base);
struct dma_buf *usb4_dmabuf_get(int fd);
void usb4_dmabuf_put(struct dma_buf *buf);
u64 usb4_dmabuf_size(const struct dma_buf *buf);
bool usb4_dmabuf_has_vmap(const struct dma_buf *buf);
int usb4_dmabuf_begin(struct dma_buf *buf);
void usb4_dmabuf_end(struct dma_buf *buf);
int usb4_dmabuf_map(struct dma_buf *buf, struct usb4_dmabuf *mapping);
void usb4_dmabuf_unmap(struct dma_buf *buf, const struct usb4_dmabuf *mapping);
void usb4_dmabuf_read(const struct usb4_dmabuf *mapping, size_t offset, void *to, size_t len);
void usb4_dmabuf_write(const struct usb4_dmabuf *mapping, size_t offset, const void *from, size_t len);
void *usb4_vmalloc_user(size_t size);
size_t usb4_memory_size(void);
void usb4_mem_copy(void *to, const void *from, size_t len);
bool usb4_crc32_is_fast(void);
u32 usb4_crc32(u32 state, const u8 *bytes, size_t len);
u32 usb4_load_acquire(const u32 *at);
void usb4_store_release(u32 *at, u32 value);

/* Locks, time. */
void usb4_spin_lock_bh(spinlock_t *lock);
void usb4_spin_unlock_bh(spinlock_t *lock);
bool usb4_spin_trylock_bh(spinlock_t *lock);
bool usb4_spin_trylock(spinlock_t *lock);
void usb4_spin_unlock(spinlock_t *lock);
bool usb4_irqs_off(void);
unsigned long usb4_spin_lock_irqsave(spinlock_t *lock);
void usb4_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);
void usb4_tasklet_schedule(struct tasklet_struct *tasklet);
u32 usb4_caller(void);
u32 usb4_cpu(void);
bool usb4_robs(u32 owner, bool owner_runs);
void usb4_rcu_wait(void);
void usb4_rcu_tasks_wait(void);
void usb4_sleep_ms(unsigned int ms);

/* The netdev and its packets. */
bool usb4_netdev_is_vlan(const struct net_device *ndev);
bool usb4_netdev_usable(const struct net_device *ndev);
void usb4_netdev_hold(struct net_device *ndev);
void usb4_netdev_put(struct net_device *ndev);
u32 usb4_netdev_mtu(const struct net_device *ndev);
void usb4_netdev_announce(struct net_device *ndev);
bool usb4_netdev_carries(const struct net_device *ndev, const struct net_device *upper);
const void *usb4_netdev_namespace(const struct net_device *ndev);
struct net_device *usb4_netdev_vlan(struct net_device *ndev, u32 tag);
const u8 *usb4_netdev_address(const struct net_device *ndev);
bool usb4_netdev_is_up(const struct net_device *ndev);
bool usb4_netdev_is_registered(const struct net_device *ndev);
u32 usb4_netdev_port_state(struct net_device *ndev);
u32 usb4_netdev_speed(struct net_device *ndev);
bool usb4_next_hop(struct net_device *ndev, bool ipv6, const u8 *from, const u8 *to, bool doubt, u8 *mac);
void usb4_renew_soon(unsigned int ms);
void usb4_renew_cancel(void);
int usb4_netevent_register(void);
void usb4_netevent_unregister(void);
int usb4_hook_register(struct nf_hook_ops *ops, struct net_device *ndev, nf_hookfn *hook, void *priv);
void usb4_hook_unregister(struct nf_hook_ops *ops, struct net_device *ndev);

bool usb4_netdev_carries_runs(struct net_device *ndev);
struct net_device *usb4_netdev_below(struct net_device *bond, u32 number);
struct sk_buff *usb4_skb_alloc(u32 len, struct net_device *ndev);
bool usb4_skb_add_page(struct sk_buff *skb, struct page *page, u32 offset, u32 len);
u8 *usb4_skb_put(struct sk_buff *skb, u32 len);
void *usb4_skb_credit(const struct sk_buff *skb);
void usb4_skb_send_prepare(struct sk_buff *skb, u32 network_offset, u32 transport_offset,
			   void (*done)(struct sk_buff *skb), void *credit);
void usb4_skb_borrow(struct sk_buff *skb, struct usb4_loan *loan, void (*back)(struct usb4_loan *loan));
int usb4_skb_xmit(struct sk_buff *skb);
bool usb4_skb_is_in_vlan(const struct sk_buff *skb);
struct sk_buff *usb4_skb_clone(struct sk_buff *skb);
void usb4_skb_turn(struct sk_buff *skb);
void usb4_skb_rx(struct sk_buff *skb);
void usb4_skb_lower(struct sk_buff *skb);
void usb4_skb_free(struct sk_buff *skb);
void usb4_skb_consume(struct sk_buff *skb);
void usb4_skb_facts(const struct sk_buff *skb, struct usb4_skb_facts *facts);
const u8 *usb4_skb_destination(const struct sk_buff *skb);
const u8 *usb4_skb_vlan_address(const struct sk_buff *skb);
void usb4_skb_keep(struct sk_buff *skb);
const u8 *usb4_skb_segment(const struct sk_buff *skb, u32 index, u32 *len);

#include "thunderbolt.h"
#include "netif.h"

#endif
