// SPDX-License-Identifier: GPL-2.0
/*
 * Where a datagram goes next: the kernel's routes and neighbours, and word of their changes. One step each; what is
 * done about it is decided in rdma/.
 */
#include <linux/netdevice.h>
#include <linux/workqueue.h>
#include <net/dst.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/neighbour.h>
#include <net/netevent.h>
#include <net/route.h>

#include "bindings.h"

void usb4_op_renew(void);
void usb4_op_neighbours_changed(void);

/* GIDs of IPv4 addresses end with them. */
#define USB4_GID_V4 12

static struct dst_entry *usb4_route4(struct net_device *ndev, const u8 *from, const u8 *to)
{
	struct flowi4 flow = { .flowi4_oif = ndev->ifindex };
	struct rtable *route;

	memcpy(&flow.saddr, from + USB4_GID_V4, sizeof(flow.saddr));
	memcpy(&flow.daddr, to + USB4_GID_V4, sizeof(flow.daddr));
	route = ip_route_output_key(dev_net(ndev), &flow);
	return IS_ERR(route) ? NULL : &route->dst;
}

#if IS_ENABLED(CONFIG_IPV6)
static struct dst_entry *usb4_route6(struct net_device *ndev, const u8 *from, const u8 *to)
{
	struct flowi6 flow = { .flowi6_oif = ndev->ifindex };
	struct dst_entry *route;

	memcpy(&flow.saddr, from, sizeof(flow.saddr));
	memcpy(&flow.daddr, to, sizeof(flow.daddr));
	route = ip6_dst_lookup_flow(dev_net(ndev), NULL, &flow, NULL);
	return IS_ERR(route) ? NULL : route;
}
#else
static struct dst_entry *usb4_route6(struct net_device *ndev, const u8 *from, const u8 *to) { return NULL; }
#endif

/*
 * The Ethernet address to which ndev sends datagrams between two GIDs. False while it is not known; then, and if the
 * caller doubts what is known, the neighbour is asked. Does not sleep.
 */
bool usb4_next_hop(struct net_device *ndev, bool ipv6, const u8 *from, const u8 *to, bool doubt, u8 *mac)
{
	struct dst_entry *route = ipv6 ? usb4_route6(ndev, from, to) : usb4_route4(ndev, from, to);
	struct neighbour *hop;
	bool known = false;

	if (!route)
		return false;
	hop = dst_neigh_lookup(route, ipv6 ? to : to + USB4_GID_V4);
	if (hop) {
		known = READ_ONCE(hop->nud_state) & NUD_VALID && hop->dev->addr_len == ETH_ALEN;
		if (known)
			neigh_ha_snapshot(mac, hop, hop->dev);
		if (!known || doubt)
			neigh_event_send(hop, NULL);
		neigh_release(hop);
	}
	dst_release(route);
	return known;
}

static void usb4_renew(struct work_struct *work)
{
	usb4_op_renew();
}

static DECLARE_DELAYED_WORK(usb4_renew_work, usb4_renew);

/* A neighbour's state or address, or a route. Any context. */
static int usb4_netevent(struct notifier_block *block, unsigned long event, void *info)
{
	if (event == NETEVENT_NEIGH_UPDATE || event == NETEVENT_REDIRECT)
		usb4_op_neighbours_changed();
	return NOTIFY_DONE;
}

static struct notifier_block usb4_netevent_notifier = { .notifier_call = usb4_netevent };

void usb4_renew_soon(unsigned int ms) { schedule_delayed_work(&usb4_renew_work, msecs_to_jiffies(ms)); }
void usb4_renew_cancel(void) { cancel_delayed_work_sync(&usb4_renew_work); }
int usb4_netevent_register(void) { return register_netevent_notifier(&usb4_netevent_notifier); }
void usb4_netevent_unregister(void) { unregister_netevent_notifier(&usb4_netevent_notifier); }
