// SPDX-License-Identifier: GPL-2.0
/*
 * The netdev half of net/: tables, and one-step wrappers of inline functions. What is called of Rust stands in the
 * table that net/kapi/ndo.rs gives with a device; nothing here decides.
 */
#include <linux/dma-mapping.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/module.h>
#include <linux/udp.h>
#include <linux/virtio_net.h>
#include <net/checksum.h>
#include <net/page_pool/helpers.h>
#include <net/rtnetlink.h>
#include <net/tcp.h>

#include "bindings.h"

#define USB4_ND_NAME "usb4net%u"
#define USB4_ND_MAX_MTU 65522 /* 64 KiB with the Ethernet header: thunderbolt_net's */

struct usb4_nd_priv {
	void *inner;
	const struct usb4_nd_calls *calls;
	struct net_device *ndev;
	struct delayed_work announce;
	atomic_t announcements; /* still to be made */
	struct work_struct loosen;
	struct completion gone;
	bool loose; /* no cable is in: the user may let go of the device */
	bool runs; /* the peer takes runs of RDMA packets */
};

static const struct usb4_nd_priv *priv_of(struct net_device *ndev) { return netdev_priv(ndev); }

void *usb4_nd_inner(struct net_device *ndev) { return priv_of(ndev)->inner; }

/* Calls a function of Rust for a device. */
#define CALL(ndev, fn, ...) (priv_of(ndev)->calls->fn(priv_of(ndev)->inner, ##__VA_ARGS__))

/* ---- announcements ---- */

/*
 * Tells the peer who is here when the carrier has come, or the address has changed. A question for an address that was asked before the peer was
 * there is repeated after a second only; the announcement answers it. A peer that knows the old address sends to it, and
 * what is not for us is dropped, until its entry is old. Twice: at the first, the stack may not have
 * taken note of the carrier yet, and drops what is sent.
 */
static void usb4_nd_announce(struct work_struct *work)
{
	struct usb4_nd_priv *priv = container_of(to_delayed_work(work), struct usb4_nd_priv, announce);
	struct net_device *ndev = priv->ndev;

	rtnl_lock();
	if (ndev->reg_state == NETREG_REGISTERED && netif_running(ndev) && netif_carrier_ok(ndev)) {
		__netdev_notify_peers(ndev);
		if (atomic_dec_return(&priv->announcements) > 0)
			schedule_delayed_work(&priv->announce, msecs_to_jiffies(150));
	}
	rtnl_unlock();
}

static void usb4_nd_announce_soon(struct usb4_nd_priv *priv)
{
	atomic_set(&priv->announcements, 2);
	mod_delayed_work(system_percpu_wq, &priv->announce, msecs_to_jiffies(10));
}

/* ---- letting go ---- */

/* A cable may have come in since; then the device stays. */
static void usb4_nd_dellink(struct net_device *ndev, struct list_head *head)
{
	if (CALL(ndev, let_go))
		unregister_netdevice_queue(ndev, head);
}

/*
 * `ip link del` asks for this table. With a cable in there is none, as with any adapter: "Operation not supported", and
 * network managers take a device without a kind for the Ethernet adapter that it is. Not registered, as none is made
 * by `ip link add`. From a namespace that ends the device moves to the first.
 */
static const struct rtnl_link_ops usb4_nd_link_ops = {
	.kind = "usb4net",
	.dellink = usb4_nd_dellink,
	.netns_refund = true,
};

/* The core reads the table under RTNL, and more than once; who sees a cable come may not take it. */
static void usb4_nd_loosen(struct work_struct *work)
{
	struct usb4_nd_priv *priv = container_of(work, struct usb4_nd_priv, loosen);

	rtnl_lock();
	if (priv->ndev->reg_state == NETREG_REGISTERED)
		priv->ndev->rtnl_link_ops = READ_ONCE(priv->loose) ? &usb4_nd_link_ops : NULL;
	rtnl_unlock();
}

void usb4_nd_set_loose(struct net_device *ndev, bool loose)
{
	struct usb4_nd_priv *priv = netdev_priv(ndev);

	WRITE_ONCE(priv->loose, loose);
	schedule_work(&priv->loosen);
}

/* The system has let go, whoever unregistered the device. */
static void usb4_nd_destructor(struct net_device *ndev)
{
	struct usb4_nd_priv *priv = netdev_priv(ndev);

	complete(&priv->gone);
}

/* ---- entries of the device's table, net/kapi/ndo.rs ---- */

int usb4_nd_open(struct net_device *ndev)
{
	CALL(ndev, open);
	return 0;
}

int usb4_nd_stop(struct net_device *ndev)
{
	CALL(ndev, stop);
	return 0;
}

/* The core tells everybody else, and those after this: the announcement waits for them, as it takes RTNL. */
int usb4_nd_set_mac(struct net_device *ndev, void *addr)
{
	int err = eth_mac_addr(ndev, addr);

	if (err)
		return err;
	CALL(ndev, mac);
	usb4_nd_announce_soon(netdev_priv(ndev));
	return 0;
}

void usb4_nd_timeout(struct net_device *ndev, unsigned int queue) { CALL(ndev, timeout); }

static u8 usb4_nd_gso_type(const struct sk_buff *skb)
{
	u32 type = skb_shinfo(skb)->gso_type & ~(SKB_GSO_DODGY | SKB_GSO_TCP_ECN | SKB_GSO_TCP_FIXEDID);

	switch (type) {
	case SKB_GSO_TCPV4: return VIRTIO_NET_HDR_GSO_TCPV4;
	case SKB_GSO_TCPV6: return VIRTIO_NET_HDR_GSO_TCPV6;
	case SKB_GSO_UDP_L4: return VIRTIO_NET_HDR_GSO_UDP_L4;
	default: return 0xff;
	}
}

netdev_features_t usb4_nd_features_check(struct sk_buff *skb, struct net_device *ndev, netdev_features_t features)
{
	features = vlan_features_check(skb, features);
	if (skb_is_gso(skb) && !CALL(ndev, can_gso, skb->len, usb4_nd_gso_type(skb)))
		features &= ~NETIF_F_GSO_MASK;
	return features;
}

void usb4_nd_get_stats64(struct net_device *ndev, struct rtnl_link_stats64 *to)
{
	struct usb4_nd_totals from = {};

	CALL(ndev, totals, &from);
	to->rx_packets = from.rx_packets;
	to->rx_bytes = from.rx_bytes;
	to->rx_errors = from.rx_errors;
	to->rx_length_errors = from.rx_length_errors;
	to->rx_over_errors = from.rx_over_errors;
	to->rx_crc_errors = from.rx_crc_errors;
	to->rx_missed_errors = from.rx_missed_errors;
	to->rx_dropped = from.rx_dropped;
	to->tx_packets = from.tx_packets;
	to->tx_bytes = from.tx_bytes;
	to->tx_errors = from.tx_errors;
	to->tx_dropped = from.tx_dropped;
}

/* The cable, as the thunderbolt bus names it: the parent is the router, which several cables may share. */
int usb4_nd_port_name(struct net_device *ndev, char *name, size_t len)
{
	return CALL(ndev, cable, name, len);
}

/* ---- ethtool ---- */

static void usb4_nd_drvinfo(struct net_device *ndev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, KBUILD_MODNAME, sizeof(info->driver));
	CALL(ndev, cable, info->bus_info, sizeof(info->bus_info));
}

static int usb4_nd_link_ksettings(struct net_device *ndev, struct ethtool_link_ksettings *cmd)
{
	ethtool_link_ksettings_zero_link_mode(cmd, supported);
	ethtool_link_ksettings_zero_link_mode(cmd, advertising);
	cmd->base.speed = CALL(ndev, speed);
	cmd->lanes = CALL(ndev, lanes);
	cmd->base.duplex = cmd->base.speed == (u32)SPEED_UNKNOWN ? DUPLEX_UNKNOWN : DUPLEX_FULL;
	cmd->base.autoneg = AUTONEG_DISABLE;
	cmd->base.port = PORT_OTHER;
	return 0;
}

static int usb4_nd_sset_count(struct net_device *ndev, int set)
{
	if (set == ETH_SS_TEST)
		return CALL(ndev, test_count);
	return set == ETH_SS_STATS ? CALL(ndev, stat_count) : -EOPNOTSUPP;
}

static void usb4_nd_strings(struct net_device *ndev, u32 set, u8 *to)
{
	if (set == ETH_SS_STATS)
		CALL(ndev, stat_names, to);
	if (set == ETH_SS_TEST)
		CALL(ndev, test_names, to);
}

static void usb4_nd_self_test(struct net_device *ndev, struct ethtool_test *test, u64 *to)
{
	if (!CALL(ndev, test, to))
		test->flags |= ETH_TEST_FL_FAILED;
}

static void usb4_nd_stats(struct net_device *ndev, struct ethtool_stats *stats, u64 *to)
{
	CALL(ndev, stats, to);
}

static int usb4_nd_get_coalesce(struct net_device *ndev, struct ethtool_coalesce *to,
				struct kernel_ethtool_coalesce *kernel, struct netlink_ext_ack *extack)
{
	struct usb4_nd_coalesce from = {};

	CALL(ndev, get_coalesce, &from);
	to->rx_coalesce_usecs = from.rx_usecs;
	to->tx_coalesce_usecs = from.tx_usecs;
	to->use_adaptive_rx_coalesce = from.rx_adaptive;
	to->use_adaptive_tx_coalesce = from.tx_adaptive;
	return 0;
}

static int usb4_nd_set_coalesce(struct net_device *ndev, struct ethtool_coalesce *from,
				struct kernel_ethtool_coalesce *kernel, struct netlink_ext_ack *extack)
{
	const struct usb4_nd_coalesce to = {
		.rx_usecs = from->rx_coalesce_usecs,
		.tx_usecs = from->tx_coalesce_usecs,
		.rx_adaptive = !!from->use_adaptive_rx_coalesce,
		.tx_adaptive = !!from->use_adaptive_tx_coalesce,
	};

	return CALL(ndev, set_coalesce, &to);
}

static void usb4_nd_get_rings(struct net_device *ndev, struct ethtool_ringparam *to,
			      struct kernel_ethtool_ringparam *kernel, struct netlink_ext_ack *extack)
{
	struct usb4_nd_rings from = {};

	CALL(ndev, get_rings, &from);
	to->rx_pending = from.rx;
	to->tx_pending = from.tx;
	to->rx_max_pending = from.rx_max;
	to->tx_max_pending = from.tx_max;
}

static int usb4_nd_set_rings(struct net_device *ndev, struct ethtool_ringparam *from,
			     struct kernel_ethtool_ringparam *kernel, struct netlink_ext_ack *extack)
{
	return CALL(ndev, set_rings, from->rx_pending, from->tx_pending);
}

static const struct ethtool_ops usb4_nd_ethtool_ops = {
	.supported_coalesce_params = ETHTOOL_COALESCE_USECS | ETHTOOL_COALESCE_USE_ADAPTIVE,
	.get_drvinfo = usb4_nd_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_link_ksettings = usb4_nd_link_ksettings,
	.get_ts_info = ethtool_op_get_ts_info,
	.get_sset_count = usb4_nd_sset_count,
	.get_strings = usb4_nd_strings,
	.get_ethtool_stats = usb4_nd_stats,
	.self_test = usb4_nd_self_test,
	.get_coalesce = usb4_nd_get_coalesce,
	.set_coalesce = usb4_nd_set_coalesce,
	.get_ringparam = usb4_nd_get_rings,
	.set_ringparam = usb4_nd_set_rings,
};

/* ---- the device's life ---- */

/* The headroom that other drivers ask for is not needed: what is not page data is copied behind the frame header. */
struct net_device *usb4_nd_alloc(struct device *parent, const u8 *mac, const struct net_device_ops *ops,
				 const struct usb4_nd_calls *calls)
{
	struct net_device *ndev = alloc_etherdev(sizeof(struct usb4_nd_priv));
	struct usb4_nd_priv *priv;

	if (!ndev)
		return NULL;
	priv = netdev_priv(ndev);
	priv->ndev = ndev;
	priv->calls = calls;
	INIT_DELAYED_WORK(&priv->announce, usb4_nd_announce);
	INIT_WORK(&priv->loosen, usb4_nd_loosen);
	init_completion(&priv->gone);
	ndev->priv_destructor = usb4_nd_destructor;
	SET_NETDEV_DEV(ndev, parent);
	ndev->netdev_ops = ops;
	ndev->ethtool_ops = &usb4_nd_ethtool_ops;
	ndev->min_mtu = ETH_MIN_MTU;
	ndev->max_mtu = USB4_ND_MAX_MTU;
	/* Fewest acknowledgements. A cable has two ends, and either kind of peer takes packets of any MTU. */
	ndev->mtu = USB4_ND_MAX_MTU;
	ndev->hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN |
			    NETIF_F_GSO_UDP_L4 | NETIF_F_RXCSUM;
	ndev->features = ndev->hw_features | NETIF_F_HIGHDMA;
	ndev->vlan_features = ndev->features;
	ndev->hw_enc_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_HIGHDMA;
	ndev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_UNICAST_FLT;
	ndev->watchdog_timeo = 5 * HZ;
	eth_hw_addr_set(ndev, mac);
	netif_carrier_off(ndev);
	return ndev;
}

/* Gets the number `own`, or if a device has that, the next free one from `others` on. */
int usb4_nd_register(struct net_device *ndev, void *inner, u32 own, u32 others)
{
	struct usb4_nd_priv *priv = netdev_priv(ndev);
	int err;

	priv->inner = inner;
	ndev->name_assign_type = own < others ? NET_NAME_PREDICTABLE : NET_NAME_ENUM;
	rtnl_lock();
	snprintf(ndev->name, sizeof(ndev->name), USB4_ND_NAME, own);
	while (netdev_name_in_use(dev_net(ndev), ndev->name)) {
		snprintf(ndev->name, sizeof(ndev->name), USB4_ND_NAME, others++);
		ndev->name_assign_type = NET_NAME_ENUM;
	}
	err = register_netdevice(ndev);
	rtnl_unlock();
	return err;
}

/* Unregistered by `ip link del` already, or only being so, it is waited for. */
void usb4_nd_unregister(struct net_device *ndev)
{
	struct usb4_nd_priv *priv = netdev_priv(ndev);

	rtnl_lock();
	if (ndev->reg_state == NETREG_REGISTERED)
		unregister_netdevice(ndev);
	rtnl_unlock();
	wait_for_completion(&priv->gone);
	disable_delayed_work_sync(&priv->announce);
	disable_work_sync(&priv->loosen);
}

void usb4_nd_free(struct net_device *ndev) { free_netdev(ndev); }
const char *usb4_nd_name(const struct net_device *ndev) { return netdev_name(ndev); }
const u8 *usb4_nd_mac(const struct net_device *ndev) { return ndev->dev_addr; }
u32 usb4_nd_mtu(const struct net_device *ndev) { return READ_ONCE(ndev->mtu); }

void usb4_nd_present(struct net_device *ndev, bool present)
{
	if (present)
		netif_device_attach(ndev);
	else
		netif_device_detach(ndev);
}

void usb4_nd_carrier(struct net_device *ndev, bool on)
{
	struct usb4_nd_priv *priv = netdev_priv(ndev);

	if (on) {
		netif_carrier_on(ndev);
		usb4_nd_announce_soon(priv);
	} else {
		netif_carrier_off(ndev);
	}
}

void usb4_nd_set_runs(struct net_device *ndev, bool on)
{
	struct usb4_nd_priv *priv = netdev_priv(ndev);

	WRITE_ONCE(priv->runs, on);
}

bool usb4_nd_is_ours(const struct net_device *ndev) { return ndev->ethtool_ops == &usb4_nd_ethtool_ops; }

/* Whether a device is no cable whose peer takes runs. */
static int usb4_nd_lacks_runs(struct net_device *lower, struct netdev_nested_priv *found)
{
	const struct usb4_nd_priv *priv = netdev_priv(lower);

	*(u32 *)found->data += 1;
	return !usb4_nd_is_ours(lower) || !READ_ONCE(priv->runs);
}

/* A cable whose peer takes runs, or a bond of nothing else. Any context. */
bool usb4_netdev_carries_runs(struct net_device *ndev)
{
	u32 count = 0;
	struct netdev_nested_priv found = { .data = &count };
	bool carries;

	if (!netif_is_bond_master(ndev))
		return !usb4_nd_lacks_runs(ndev, &found);
	rcu_read_lock();
	carries = !netdev_walk_all_lower_dev_rcu(ndev, usb4_nd_lacks_runs, &found) && count;
	rcu_read_unlock();
	return carries;
}

/* The device below a bond with this number, from 0 on; NULL from the last one on, and if it is no bond. Under RTNL. */
struct net_device *usb4_netdev_below(struct net_device *bond, u32 number)
{
	struct net_device *lower;
	struct list_head *iter;

	ASSERT_RTNL();
	if (!netif_is_bond_master(bond))
		return NULL;
	netdev_for_each_lower_dev(bond, lower, iter)
		if (!number--)
			return lower;
	return NULL;
}

void usb4_nd_queue_stop(struct net_device *ndev) { netif_stop_queue(ndev); }
void usb4_nd_queue_wake(struct net_device *ndev) { netif_wake_queue(ndev); }
bool usb4_nd_throttled(const struct net_device *ndev) { return netif_xmit_stopped(netdev_get_tx_queue(ndev, 0)); }
void usb4_nd_tx_disable(struct net_device *ndev) { netif_tx_disable(ndev); }

/* True when the doorbell is to be rung now. */
bool usb4_nd_sent(struct net_device *ndev, u32 bytes)
{
	return __netdev_sent_queue(ndev, bytes, netdev_xmit_more());
}

void usb4_nd_completed(struct net_device *ndev, u32 packets, u32 bytes)
{
	netdev_completed_queue(ndev, packets, bytes);
}

void usb4_nd_sent_reset(struct net_device *ndev) { netdev_reset_queue(ndev); }
bool usb4_nd_more(void) { return netdev_xmit_more(); }

/* ---- NAPI ---- */

void usb4_napi_add(struct net_device *ndev, struct napi_struct *napi, int (*poll)(struct napi_struct *napi, int budget))
{
	netif_napi_add(ndev, napi, poll);
}

void usb4_napi_del(struct napi_struct *napi) { netif_napi_del(napi); }
void usb4_napi_enable(struct napi_struct *napi) { napi_enable(napi); }
void usb4_napi_disable(struct napi_struct *napi) { napi_disable(napi); }
bool usb4_napi_schedule(struct napi_struct *napi) { return napi_schedule(napi); }
bool usb4_napi_done(struct napi_struct *napi, int work) { return napi_complete_done(napi, work); }

/* ---- packets out ---- */

static u32 usb4_nd_header_len(const struct sk_buff *skb)
{
	u32 len = skb_transport_offset(skb);

	return skb_shinfo(skb)->gso_type & SKB_GSO_UDP_L4 ? len + sizeof(struct udphdr) : len + tcp_hdrlen(skb);
}

/* False where the packet has what no metadata of ours can say; ndo_features_check does not let such a packet come. */
bool usb4_nd_tx_view(const struct sk_buff *skb, struct usb4_nd_tx *view)
{
	struct virtio_net_hdr meta;

	if (virtio_net_hdr_from_skb(skb, &meta, true, true, 0))
		return false;
	view->len = skb->len;
	view->linear = skb_headlen(skb);
	view->frags = skb_shinfo(skb)->nr_frags;
	view->truesize = skb->truesize;
	view->header_len = skb_is_gso(skb) ? usb4_nd_header_len(skb) : 0;
	view->gso_size = skb_shinfo(skb)->gso_size;
	view->gso_type = meta.gso_type;
	view->csum_partial = meta.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM;
	view->csum_valid = meta.flags == VIRTIO_NET_HDR_F_DATA_VALID;
	view->csum_start = le16_to_cpu((__force __le16)meta.csum_start);
	view->csum_offset = le16_to_cpu((__force __le16)meta.csum_offset);
	return !skb_has_frag_list(skb);
}

u32 usb4_nd_tx_frag_len(const struct sk_buff *skb, u32 index)
{
	return skb_frag_size(&skb_shinfo(skb)->frags[index]);
}

int usb4_nd_tx_copy(const struct sk_buff *skb, u32 offset, u8 *to, u32 len)
{
	return skb_copy_bits(skb, offset, to, len);
}

u32 usb4_nd_tx_copy_sum(const struct sk_buff *skb, u32 offset, u8 *to, u32 len)
{
	return (__force u32)skb_copy_and_csum_bits(skb, offset, to, len);
}

u32 usb4_nd_sum_add(u32 sum, u32 more, u32 offset)
{
	return (__force u32)csum_block_add((__force __wsum)sum, (__force __wsum)more, offset);
}

/* As it goes into the packet; 0 is written as 0xffff, which TCP and UDP both take. */
u16 usb4_nd_sum_fold(u32 sum)
{
	__sum16 folded = csum_fold((__force __wsum)sum);

	return (__force u16)(folded ?: CSUM_MANGLED_0);
}

bool usb4_nd_map_linear(struct device *dma, const struct sk_buff *skb, u32 offset, u32 len, u64 *addr)
{
	*addr = dma_map_single(dma, skb->data + offset, len, DMA_TO_DEVICE);
	return !dma_mapping_error(dma, *addr);
}

bool usb4_nd_map_frag(struct device *dma, const struct sk_buff *skb, u32 index, u64 *addr)
{
	const skb_frag_t *frag = &skb_shinfo(skb)->frags[index];

	*addr = skb_frag_dma_map(dma, frag, 0, skb_frag_size(frag), DMA_TO_DEVICE);
	return !dma_mapping_error(dma, *addr);
}

bool usb4_nd_map_page(struct device *dma, struct page *page, u32 offset, u32 len, u64 *addr)
{
	*addr = dma_map_page(dma, page, offset, len, DMA_TO_DEVICE);
	return !dma_mapping_error(dma, *addr);
}

/* The same for a page that the device writes. */
bool usb4_nd_map_target(struct device *dma, struct page *page, u32 offset, u32 len, u64 *addr)
{
	*addr = dma_map_page(dma, page, offset, len, DMA_FROM_DEVICE);
	return !dma_mapping_error(dma, *addr);
}

void usb4_nd_unmap_target(struct device *dma, u64 addr, u32 len) { dma_unmap_page(dma, addr, len, DMA_FROM_DEVICE); }
void usb4_nd_unmap(struct device *dma, u64 addr, u32 len) { dma_unmap_page(dma, addr, len, DMA_TO_DEVICE); }

/* Budget 0 outside of NAPI. */
void usb4_nd_tx_done(struct sk_buff *skb, int budget) { napi_consume_skb(skb, budget); }
void usb4_nd_tx_drop(struct sk_buff *skb) { dev_kfree_skb_any(skb); }
void usb4_nd_tx_timestamp(struct sk_buff *skb) { skb_tx_timestamp(skb); }
/* The core inlines it, and looks only whether the socket has this shift already. */
void usb4_nd_tx_pacing(struct sk_buff *skb, int shift) { sk_pacing_shift_update(skb->sk, shift); }

/* ---- packets in ---- */

struct sk_buff *usb4_nd_rx_alloc(struct napi_struct *napi, u32 len) { return napi_alloc_skb(napi, len); }
void usb4_nd_rx_copy(struct sk_buff *skb, const u8 *from, u32 len) { skb_put_data(skb, from, len); }

void usb4_nd_rx_frag(struct sk_buff *skb, struct page *page, u32 offset, u32 len)
{
	skb_add_rx_frag(skb, skb_shinfo(skb)->nr_frags, page, offset, len, PAGE_SIZE);
}

u32 usb4_nd_rx_header_len(struct net_device *ndev, const u8 *data, u32 len) { return eth_get_headlen(ndev, data, len); }

/* False where metadata and packet contradict each other. */
bool usb4_nd_rx_meta(struct sk_buff *skb, const struct usb4_nd_rx *meta)
{
	const struct virtio_net_hdr hdr = {
		.flags = meta->csum_partial ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
		.gso_type = meta->gso_type,
		.hdr_len = (__force __virtio16)cpu_to_le16(meta->header_len),
		.gso_size = (__force __virtio16)cpu_to_le16(meta->gso_size),
		.csum_start = (__force __virtio16)cpu_to_le16(meta->csum_start),
		.csum_offset = (__force __virtio16)cpu_to_le16(meta->csum_offset),
	};

	if (meta->csum_valid && skb->dev->features & NETIF_F_RXCSUM)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	return !virtio_net_hdr_to_skb(skb, &hdr, true);
}

/* Segments are as long as TCP's usual headers leave them. Whether it is TCP is looked at by virtio_net_hdr_to_skb(). */
void usb4_nd_rx_super(struct sk_buff *skb, u32 mtu)
{
	const struct ethhdr *eth = (const struct ethhdr *)skb->data;
	bool v6 = eth->h_proto == htons(ETH_P_IPV6);
	u32 headers = (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct tcphdr) +
		      TCPOLEN_TSTAMP_ALIGNED;
	const struct virtio_net_hdr hdr = {
		.gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
		.gso_size = (__force __virtio16)cpu_to_le16(max(mtu, 2 * headers) - headers),
	};

	virtio_net_hdr_to_skb(skb, &hdr, true);
}

void usb4_nd_rx_finish(struct sk_buff *skb, struct net_device *ndev)
{
	skb_mark_for_recycle(skb);
	skb->protocol = eth_type_trans(skb, ndev);
}

void usb4_nd_rx_free(struct sk_buff *skb)
{
	skb_mark_for_recycle(skb);
	napi_consume_skb(skb, 1);
}

void usb4_nd_rx_chain(struct sk_buff *last, struct sk_buff *skb) { last->next = skb; }

void usb4_nd_rx_deliver(struct napi_struct *napi, struct sk_buff *first)
{
	while (first) {
		struct sk_buff *next = first->next;

		skb_mark_not_on_list(first);
		napi_gro_receive(napi, first);
		first = next;
	}
}

void usb4_nd_rx_free_chain(struct sk_buff *first) { kfree_skb_list(first); }

/* ---- pages ---- */

/* The pool maps its pages once, for as long as they are its. */
struct page_pool *usb4_nd_pool_create(struct napi_struct *napi, struct device *dma, u32 size)
{
	const struct page_pool_params params = {
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV,
		.pool_size = size,
		.nid = NUMA_NO_NODE,
		.dev = dma,
		.napi = napi,
		.netdev = napi->dev,
		.dma_dir = DMA_FROM_DEVICE,
		.max_len = PAGE_SIZE,
	};
	struct page_pool *pool = page_pool_create(&params);

	return IS_ERR(pool) ? NULL : pool;
}

void usb4_nd_pool_destroy(struct page_pool *pool) { page_pool_destroy(pool); }
struct page *usb4_nd_pool_alloc(struct page_pool *pool) { return page_pool_dev_alloc_pages(pool); }

static struct page_pool *pool_of(const struct page *page) { return pp_page_to_nmdesc(page)->pp; }

void usb4_nd_pool_put(struct page *page) { page_pool_put_full_page(pool_of(page), page, false); }
u64 usb4_nd_pool_addr(const struct page *page) { return page_pool_get_dma_addr(page); }

const u8 *usb4_nd_pool_sync_cpu(struct page *page, u32 len)
{
	page_pool_dma_sync_for_cpu(pool_of(page), page, 0, len);
	return page_address(page);
}

/* A page that goes back to the ring without a visit to the pool. */
void usb4_nd_pool_sync_device(struct page *page, u32 len)
{
	dma_sync_single_range_for_device(pool_of(page)->p.dev, page_pool_get_dma_addr(page), 0, len, DMA_FROM_DEVICE);
}

struct page *usb4_nd_slot_alloc(struct device *dma, u64 *addr)
{
	struct page *page = alloc_page(GFP_KERNEL);

	if (!page)
		return NULL;
	*addr = dma_map_page(dma, page, 0, PAGE_SIZE, DMA_TO_DEVICE);
	if (!dma_mapping_error(dma, *addr))
		return page;
	__free_page(page);
	return NULL;
}

void usb4_nd_slot_free(struct device *dma, struct page *page, u64 addr)
{
	dma_unmap_page(dma, addr, PAGE_SIZE, DMA_TO_DEVICE);
	__free_page(page);
}

u8 *usb4_nd_slot_bytes(struct page *page) { return page_address(page); }

void usb4_nd_slot_sync(struct device *dma, u64 addr, u32 len)
{
	dma_sync_single_for_device(dma, addr, len, DMA_TO_DEVICE);
}
