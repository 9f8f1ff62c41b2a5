/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The netdev half of net/: what netif.c offers to Rust.
 */
#ifndef USB4_NETIF_H
#define USB4_NETIF_H

#include <linux/ethtool.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <net/page_pool/types.h>

/* An skb to transmit, in one flat piece. Offsets count from the Ethernet header on. */
struct usb4_nd_tx {
	u32 len;		/* bytes in all */
	u32 linear;		/* bytes in the linear part */
	u32 frags;		/* fragments behind it */
	u32 truesize;
	u16 header_len;		/* with segmentation: what every segment repeats */
	u16 gso_size;		/* 0: no segmentation */
	u16 csum_start;		/* with csum_partial */
	u16 csum_offset;
	u8 gso_type;		/* 1 TCPv4, 4 TCPv6, 5 UDP, bit 7 ECN: VIRTIO_NET_HDR_GSO_* */
	u8 csum_partial;
	u8 csum_valid;
};

/* Metadata of a received packet. */
struct usb4_nd_rx {
	u16 header_len;
	u16 gso_size;
	u16 csum_start;
	u16 csum_offset;
	u8 gso_type;
	u8 csum_partial;
	u8 csum_valid;
};

/* What ethtool -c and -g talk about. */
struct usb4_nd_coalesce {
	u32 rx_usecs;
	u32 tx_usecs;
	u8 rx_adaptive;
	u8 tx_adaptive;
};

struct usb4_nd_rings {
	u32 rx;
	u32 tx;
	u32 rx_max;
	u32 tx_max;
};

/* Totals for ip -s link. */
struct usb4_nd_totals {
	u64 rx_packets;
	u64 rx_bytes;
	u64 rx_errors;
	u64 rx_length_errors;
	u64 rx_over_errors;
	u64 rx_crc_errors;
	u64 rx_missed_errors;
	u64 rx_dropped;
	u64 tx_packets;
	u64 tx_bytes;
	u64 tx_errors;
	u64 tx_dropped;
};

/* What Rust answers for a device, called with what usb4_nd_register() was given. */
struct usb4_nd_calls {
	void (*open)(void *inner);
	void (*stop)(void *inner);
	void (*mac)(void *inner);
	bool (*let_go)(void *inner);
	void (*timeout)(void *inner);
	bool (*can_gso)(void *inner, u32 len, u8 gso_type);
	void (*totals)(void *inner, struct usb4_nd_totals *to);
	u32 (*speed)(void *inner);
	int (*cable)(void *inner, char *to, size_t len);
	u32 (*lanes)(void *inner);
	u32 (*stat_count)(void *inner);
	void (*stat_names)(void *inner, u8 *to);
	void (*stats)(void *inner, u64 *to);
	u32 (*test_count)(void *inner);
	void (*test_names)(void *inner, u8 *to);
	bool (*test)(void *inner, u64 *to);
	void (*get_coalesce)(void *inner, struct usb4_nd_coalesce *to);
	int (*set_coalesce)(void *inner, const struct usb4_nd_coalesce *from);
	void (*get_rings)(void *inner, struct usb4_nd_rings *to);
	int (*set_rings)(void *inner, u32 rx, u32 tx);
};

/* Entries of the device's table. */
int usb4_nd_open(struct net_device *ndev);
int usb4_nd_stop(struct net_device *ndev);
int usb4_nd_set_mac(struct net_device *ndev, void *addr);
void usb4_nd_timeout(struct net_device *ndev, unsigned int queue);
netdev_features_t usb4_nd_features_check(struct sk_buff *skb, struct net_device *ndev, netdev_features_t features);
void usb4_nd_get_stats64(struct net_device *ndev, struct rtnl_link_stats64 *to);
int usb4_nd_port_name(struct net_device *ndev, char *name, size_t len);

struct net_device *usb4_nd_alloc(struct device *parent, const u8 *mac, const struct net_device_ops *ops,
				 const struct usb4_nd_calls *calls);
void *usb4_nd_inner(struct net_device *ndev);
bool usb4_nd_is_ours(const struct net_device *ndev);
int usb4_nd_register(struct net_device *ndev, void *inner, u32 own, u32 others);
void usb4_nd_unregister(struct net_device *ndev);
void usb4_nd_free(struct net_device *ndev);
const char *usb4_nd_name(const struct net_device *ndev);
const u8 *usb4_nd_mac(const struct net_device *ndev);
u32 usb4_nd_mtu(const struct net_device *ndev);
void usb4_nd_present(struct net_device *ndev, bool present);
void usb4_nd_set_loose(struct net_device *ndev, bool loose);
void usb4_nd_carrier(struct net_device *ndev, bool on);
void usb4_nd_set_runs(struct net_device *ndev, bool on);
void usb4_nd_queue_stop(struct net_device *ndev);
void usb4_nd_queue_wake(struct net_device *ndev);
bool usb4_nd_throttled(const struct net_device *ndev);
void usb4_nd_tx_disable(struct net_device *ndev);
bool usb4_nd_sent(struct net_device *ndev, u32 bytes);
void usb4_nd_completed(struct net_device *ndev, u32 packets, u32 bytes);
void usb4_nd_sent_reset(struct net_device *ndev);
bool usb4_nd_more(void);

void usb4_napi_add(struct net_device *ndev, struct napi_struct *napi, int (*poll)(struct napi_struct *napi, int budget));
void usb4_napi_del(struct napi_struct *napi);
void usb4_napi_enable(struct napi_struct *napi);
void usb4_napi_disable(struct napi_struct *napi);
bool usb4_napi_schedule(struct napi_struct *napi);
bool usb4_napi_done(struct napi_struct *napi, int work);

bool usb4_nd_tx_view(const struct sk_buff *skb, struct usb4_nd_tx *view);
u32 usb4_nd_tx_frag_len(const struct sk_buff *skb, u32 index);
int usb4_nd_tx_copy(const struct sk_buff *skb, u32 offset, u8 *to, u32 len);
u32 usb4_nd_tx_copy_sum(const struct sk_buff *skb, u32 offset, u8 *to, u32 len);
u32 usb4_nd_sum_add(u32 sum, u32 more, u32 offset);
u16 usb4_nd_sum_fold(u32 sum);
bool usb4_nd_map_linear(struct device *dma, const struct sk_buff *skb, u32 offset, u32 len, u64 *addr);
bool usb4_nd_map_frag(struct device *dma, const struct sk_buff *skb, u32 index, u64 *addr);
bool usb4_nd_map_page(struct device *dma, struct page *page, u32 offset, u32 len, u64 *addr);
void usb4_nd_unmap(struct device *dma, u64 addr, u32 len);
bool usb4_nd_map_target(struct device *dma, struct page *page, u32 offset, u32 len, u64 *addr);
void usb4_nd_unmap_target(struct device *dma, u64 addr, u32 len);
void usb4_nd_tx_done(struct sk_buff *skb, int budget);
void usb4_nd_tx_drop(struct sk_buff *skb);
void usb4_nd_tx_timestamp(struct sk_buff *skb);
void usb4_nd_tx_pacing(struct sk_buff *skb, int shift);

struct sk_buff *usb4_nd_rx_alloc(struct napi_struct *napi, u32 len);
void usb4_nd_rx_copy(struct sk_buff *skb, const u8 *from, u32 len);
void usb4_nd_rx_frag(struct sk_buff *skb, struct page *page, u32 offset, u32 len);
u32 usb4_nd_rx_header_len(struct net_device *ndev, const u8 *data, u32 len);
bool usb4_nd_rx_meta(struct sk_buff *skb, const struct usb4_nd_rx *meta);
void usb4_nd_rx_super(struct sk_buff *skb, u32 mtu);
void usb4_nd_rx_finish(struct sk_buff *skb, struct net_device *ndev);
void usb4_nd_rx_free(struct sk_buff *skb);
void usb4_nd_rx_chain(struct sk_buff *last, struct sk_buff *skb);
void usb4_nd_rx_deliver(struct napi_struct *napi, struct sk_buff *first);
void usb4_nd_rx_free_chain(struct sk_buff *first);

struct page_pool *usb4_nd_pool_create(struct napi_struct *napi, struct device *dma, u32 size);
void usb4_nd_pool_destroy(struct page_pool *pool);
struct page *usb4_nd_pool_alloc(struct page_pool *pool);
void usb4_nd_pool_put(struct page *page);
u64 usb4_nd_pool_addr(const struct page *page);
const u8 *usb4_nd_pool_sync_cpu(struct page *page, u32 len);
void usb4_nd_pool_sync_device(struct page *page, u32 len);

struct page *usb4_nd_slot_alloc(struct device *dma, u64 *addr);
void usb4_nd_slot_free(struct device *dma, struct page *page, u64 addr);
u8 *usb4_nd_slot_bytes(struct page *page);
void usb4_nd_slot_sync(struct device *dma, u64 addr, u32 len);

#endif
