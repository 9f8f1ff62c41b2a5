// SPDX-License-Identifier: GPL-2.0
/*
 * What C alone can say: macros, inline functions, tables with designated initialisers, the kernel's versions.
 *
 * The functions named usb4_op_* are Rust (rdma/ops/ and rdma/kapi/). Everything else here is one step and decides nothing.
 */
#include <linux/crc32.h>
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/highmem.h>
#include <linux/if_vlan.h>
#include <linux/iosys-map.h>
#include <linux/module.h>
#include <linux/ratelimit.h>
#include <linux/rtnetlink.h>
#include <linux/sched/stat.h>
#include <net/addrconf.h>
#include <net/net_namespace.h>
#include <rdma/ib_addr.h>
#include <rdma/ib_cache.h>
#include <rdma/rdma_netlink.h>

#include "bindings.h"

#define USB4_UVERBS_ABI 2 /* the second layout of rdma_user_rxe.h */

/* ---- the driver's tables ---- */

int usb4_op_newlink(const char *name, struct net_device *ndev);
void usb4_op_dellink(struct ib_device *ib);
void usb4_op_relink(void);
int usb4_op_netdev_event(unsigned long event, struct net_device *ndev);
void usb4_op_dealloc_driver(struct ib_device *ib);
struct net_device *usb4_op_get_netdev(struct ib_device *ib, u32 port);
int usb4_op_query_device(struct ib_device *ib, struct ib_device_attr *attr, struct ib_udata *udata);
int usb4_op_query_port(struct ib_device *ib, u32 port, struct ib_port_attr *attr);
int usb4_op_query_pkey(struct ib_device *ib, u32 port, u16 index, u16 *pkey);
int usb4_op_port_immutable(struct ib_device *ib, u32 port, struct ib_port_immutable *immutable);
void usb4_op_fw_str(struct ib_device *ib, char *str);
int usb4_op_alloc_ucontext(struct ib_ucontext *context, struct ib_udata *udata);
void usb4_op_dealloc_ucontext(struct ib_ucontext *context);
int usb4_op_mmap(struct ib_ucontext *context, struct vm_area_struct *vma);
void usb4_op_mmap_free(struct rdma_user_mmap_entry *entry);
int usb4_op_alloc_pd(struct ib_pd *pd, struct ib_udata *udata);
int usb4_op_dealloc_pd(struct ib_pd *pd, struct ib_udata *udata);
int usb4_op_create_cq(struct ib_cq *cq, const struct ib_cq_init_attr *attr, struct uverbs_attr_bundle *attrs);
int usb4_op_destroy_cq(struct ib_cq *cq, struct ib_udata *udata);
int usb4_op_resize_cq(struct ib_cq *cq, unsigned int cqe, struct ib_udata *udata);
int usb4_op_req_notify_cq(struct ib_cq *cq, enum ib_cq_notify_flags flags);
struct ib_mr *usb4_op_reg_user_mr(struct ib_pd *pd, u64 start, u64 length, u64 iova, int access,
				  struct ib_dmah *dmah, struct ib_udata *udata);
int usb4_op_advise_mr(struct ib_pd *pd, enum ib_uverbs_advise_mr_advice advice, u32 flags, struct ib_sge *list,
		      u32 count, struct uverbs_attr_bundle *attrs);
struct ib_mr *usb4_op_reg_user_mr_dmabuf(struct ib_pd *pd, u64 offset, u64 length, u64 iova, int fd, int access,
					 struct ib_dmah *dmah, struct uverbs_attr_bundle *attrs);
struct ib_mr *usb4_op_rereg_user_mr(struct ib_mr *mr, int flags, u64 start, u64 length, u64 iova, int access,
				    struct ib_pd *pd, struct ib_udata *udata);
int usb4_op_dereg_mr(struct ib_mr *mr, struct ib_udata *udata);
struct ib_mr *usb4_op_alloc_mr(struct ib_pd *pd, enum ib_mr_type type, u32 pages);
int usb4_op_map_mr_sg(struct ib_mr *mr, struct scatterlist *sg, int count, unsigned int *offset);
int usb4_op_create_qp(struct ib_qp *qp, struct ib_qp_init_attr *init, struct ib_udata *udata);
int usb4_op_modify_qp(struct ib_qp *qp, struct ib_qp_attr *attr, int mask, struct ib_udata *udata);
int usb4_op_query_qp(struct ib_qp *qp, struct ib_qp_attr *attr, int mask, struct ib_qp_init_attr *init);
int usb4_op_destroy_qp(struct ib_qp *qp, struct ib_udata *udata);
int usb4_op_create_ah(struct ib_ah *ah, struct rdma_ah_init_attr *init, struct ib_udata *udata);
int usb4_op_modify_ah(struct ib_ah *ah, struct rdma_ah_attr *attr);
int usb4_op_query_ah(struct ib_ah *ah, struct rdma_ah_attr *attr);
int usb4_op_destroy_ah(struct ib_ah *ah, u32 flags);
int usb4_op_alloc_mw(struct ib_mw *mw, struct ib_udata *udata);
int usb4_op_dealloc_mw(struct ib_mw *mw);
int usb4_op_create_srq(struct ib_srq *srq, struct ib_srq_init_attr *init, struct ib_udata *udata);
int usb4_op_modify_srq(struct ib_srq *srq, struct ib_srq_attr *attr, enum ib_srq_attr_mask mask,
		       struct ib_udata *udata);
int usb4_op_query_srq(struct ib_srq *srq, struct ib_srq_attr *attr);
int usb4_op_destroy_srq(struct ib_srq *srq, struct ib_udata *udata);
int usb4_op_attach_mcast(struct ib_qp *qp, union ib_gid *gid, u16 lid);
int usb4_op_detach_mcast(struct ib_qp *qp, union ib_gid *gid, u16 lid);
int usb4_op_post_send(struct ib_qp *qp, const struct ib_send_wr *wr, const struct ib_send_wr **bad);
int usb4_op_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr, const struct ib_recv_wr **bad);
int usb4_op_post_srq_recv(struct ib_srq *srq, const struct ib_recv_wr *wr, const struct ib_recv_wr **bad);
int usb4_op_poll_cq(struct ib_cq *cq, int count, struct ib_wc *to);
struct ib_mr *usb4_op_get_dma_mr(struct ib_pd *pd, int access);
struct rdma_hw_stats *usb4_op_alloc_stats(struct ib_device *ib, u32 port);
int usb4_op_res_qp(struct sk_buff *msg, struct ib_qp *qp);
int usb4_op_res_cq(struct sk_buff *msg, struct ib_cq *cq);
int usb4_op_res_mr(struct sk_buff *msg, struct ib_mr *mr);
int usb4_op_res_srq(struct sk_buff *msg, struct ib_srq *srq);
int usb4_op_get_stats(struct ib_device *ib, struct rdma_hw_stats *stats, u32 port, int index);

static enum rdma_link_layer usb4_link_layer(struct ib_device *ib, u32 port)
{
	return IB_LINK_LAYER_ETHERNET;
}

/* The core takes the user's contexts apart itself; the op's presence is what allows it to. */
static void usb4_disassociate(struct ib_ucontext *context)
{
}

static const struct ib_device_ops usb4_device_ops = {
	.owner = THIS_MODULE,
	.driver_id = RDMA_DRIVER_RXE,
	.uverbs_abi_ver = USB4_UVERBS_ABI,

	.dealloc_driver = usb4_op_dealloc_driver,
	.get_netdev = usb4_op_get_netdev,
	.get_link_layer = usb4_link_layer,
	.get_port_immutable = usb4_op_port_immutable,
	.get_dev_fw_str = usb4_op_fw_str,
	.query_device = usb4_op_query_device,
	.query_port = usb4_op_query_port,
	.query_pkey = usb4_op_query_pkey,
	.alloc_ucontext = usb4_op_alloc_ucontext,
	.dealloc_ucontext = usb4_op_dealloc_ucontext,
	.disassociate_ucontext = usb4_disassociate,
	.mmap = usb4_op_mmap,
	.mmap_free = usb4_op_mmap_free,
	.alloc_pd = usb4_op_alloc_pd,
	.dealloc_pd = usb4_op_dealloc_pd,
	.create_cq = usb4_op_create_cq,
	.destroy_cq = usb4_op_destroy_cq,
	.resize_user_cq = usb4_op_resize_cq,
	.req_notify_cq = usb4_op_req_notify_cq,
	.reg_user_mr = usb4_op_reg_user_mr,
	.reg_user_mr_dmabuf = usb4_op_reg_user_mr_dmabuf,
	.rereg_user_mr = usb4_op_rereg_user_mr,
	.dereg_mr = usb4_op_dereg_mr,
	.alloc_mr = usb4_op_alloc_mr,
	.map_mr_sg = usb4_op_map_mr_sg,
	.advise_mr = usb4_op_advise_mr,
	.create_qp = usb4_op_create_qp,
	.modify_qp = usb4_op_modify_qp,
	.query_qp = usb4_op_query_qp,
	.destroy_qp = usb4_op_destroy_qp,
	.attach_mcast = usb4_op_attach_mcast,
	.detach_mcast = usb4_op_detach_mcast,
	.post_send = usb4_op_post_send,
	.post_recv = usb4_op_post_recv,
	.poll_cq = usb4_op_poll_cq,
	.get_dma_mr = usb4_op_get_dma_mr,
	.create_ah = usb4_op_create_ah,
	.create_user_ah = usb4_op_create_ah,
	.modify_ah = usb4_op_modify_ah,
	.query_ah = usb4_op_query_ah,
	.destroy_ah = usb4_op_destroy_ah,
	.alloc_mw = usb4_op_alloc_mw,
	.dealloc_mw = usb4_op_dealloc_mw,
	.create_srq = usb4_op_create_srq,
	.modify_srq = usb4_op_modify_srq,
	.query_srq = usb4_op_query_srq,
	.destroy_srq = usb4_op_destroy_srq,
	.post_srq_recv = usb4_op_post_srq_recv,
	.alloc_hw_port_stats = usb4_op_alloc_stats,
	.get_hw_stats = usb4_op_get_stats,
	.fill_res_qp_entry = usb4_op_res_qp,
	.fill_res_cq_entry = usb4_op_res_cq,
	.fill_res_mr_entry = usb4_op_res_mr,
	.fill_res_srq_entry = usb4_op_res_srq,

	INIT_RDMA_OBJ_SIZE(ib_ucontext, usb4_ucontext, ib),
	INIT_RDMA_OBJ_SIZE(ib_pd, usb4_pd, ib),
	INIT_RDMA_OBJ_SIZE(ib_cq, usb4_cq, ib),
	INIT_RDMA_OBJ_SIZE(ib_mw, usb4_mw, ib),
	INIT_RDMA_OBJ_SIZE(ib_srq, usb4_srq, ib),
	INIT_RDMA_OBJ_SIZE(ib_qp, usb4_qp, ib),
	INIT_RDMA_OBJ_SIZE(ib_ah, usb4_ah, ib),
};

/* The core keeps a reference to a device whose deletion fails, so it does not. */
static int usb4_dellink(struct ib_device *ib)
{
	usb4_op_dellink(ib);
	return 0;
}

static struct rdma_link_ops usb4_link_ops = {
	.type = "usb4",
	.newlink = usb4_op_newlink,
	.dellink = usb4_dellink,
};
MODULE_ALIAS_RDMA_LINK("usb4");

static void usb4_relink(struct work_struct *work)
{
	usb4_op_relink();
}

static DECLARE_DELAYED_WORK(usb4_relink_work, usb4_relink);

static int usb4_netdev_notify(struct notifier_block *block, unsigned long event, void *info)
{
	return usb4_op_netdev_event(event, netdev_notifier_info_to_dev(info));
}

static struct notifier_block usb4_netdev_notifier = { .notifier_call = usb4_netdev_notify };

/* ---- the device in the core ---- */

struct ib_device *usb4_ib_alloc(struct net_device *ndev)
{
	/* Where the core keeps namespaces apart, the device belongs to that of its netdev. */
	struct usb4_device *dev = ib_alloc_device_with_net(usb4_device, ib, dev_net(ndev));

	if (!dev)
		return NULL;
	ib_mark_name_assigned_by_user(&dev->ib);
	strscpy(dev->ib.node_desc, "usb4_rdma", sizeof(dev->ib.node_desc));
	dev->ib.node_type = RDMA_NODE_IB_CA;
	dev->ib.phys_port_cnt = 1;
	dev->ib.num_comp_vectors = num_possible_cpus();
	addrconf_addr_eui48((u8 *)&dev->ib.node_guid, ndev->dev_addr);
	dev->ib.uverbs_cmd_mask |= BIT_ULL(IB_USER_VERBS_CMD_POST_SEND) | BIT_ULL(IB_USER_VERBS_CMD_REQ_NOTIFY_CQ);
	dev->ib.link_ops = &usb4_link_ops;
	ib_set_device_ops(&dev->ib, &usb4_device_ops);
	return &dev->ib;
}

/* No DMA device: the CPU copies, and the core's scatter lists carry kernel addresses. */
int usb4_ib_register(struct ib_device *ib, const char *name) { return ib_register_device(ib, name, NULL); }
bool usb4_ib_try_get(struct ib_device *ib) { return ib_device_try_get(ib); }
void usb4_ib_get_ref(struct ib_device *ib) { get_device(&ib->dev); }
void usb4_ib_put_ref(struct ib_device *ib) { put_device(&ib->dev); }

void usb4_ib_event(struct ib_device *ib, struct ib_cq *cq, struct ib_qp *qp, enum ib_event_type type)
{
	struct ib_event event = { .device = ib, .event = type };

	if (cq) {
		event.element.cq = cq;
		if (cq->event_handler)
			cq->event_handler(&event, cq->cq_context);
	} else if (qp) {
		event.element.qp = qp;
		if (qp->event_handler)
			qp->event_handler(&event, qp->qp_context);
	}
}

void usb4_ib_port_event(struct ib_device *ib, struct net_device *ndev) { ib_dispatch_port_state_event(ib, ndev); }
void usb4_link_register(void) { rdma_link_register(&usb4_link_ops); }
void usb4_link_unregister(void) { rdma_link_unregister(&usb4_link_ops); }

/* Lines in the log for users' mistakes. */
bool usb4_hint_may_tell(void)
{
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 10);

	return __ratelimit(&limit);
}

const char *usb4_ib_name(const struct ib_device *ib) { return dev_name(&ib->dev); }

void usb4_relink_later(unsigned int ms)
{
	schedule_delayed_work(&usb4_relink_work, msecs_to_jiffies(ms));
}

void usb4_relink_cancel(void) { cancel_delayed_work_sync(&usb4_relink_work); }
int usb4_notifier_register(void) { return register_netdevice_notifier(&usb4_netdev_notifier); }
void usb4_notifier_unregister(void) { unregister_netdevice_notifier(&usb4_netdev_notifier); }

/* ---- objects of user space ---- */

struct ib_ucontext *usb4_udata_context(struct ib_udata *udata)
{
	return udata ? rdma_udata_to_uverbs_attr_bundle(udata)->context : NULL;
}

struct ib_udata *usb4_attrs_udata(struct uverbs_attr_bundle *attrs) { return attrs ? &attrs->driver_udata : NULL; }
size_t usb4_udata_inlen(const struct ib_udata *udata) { return udata->inlen; }
size_t usb4_udata_outlen(const struct ib_udata *udata) { return udata->outlen; }
int usb4_udata_reply(struct ib_udata *udata, void *src, size_t len) { return ib_copy_to_udata(udata, src, len); }
int usb4_udata_read(struct ib_udata *udata, void *dest, size_t len) { return ib_copy_from_udata(dest, udata, len); }

int usb4_user_write(u64 address, const void *src, size_t len)
{
	return copy_to_user(u64_to_user_ptr(address), src, len) ? -EFAULT : 0;
}

void usb4_srq_limit_event(struct ib_srq *srq)
{
	struct ib_event event = { .device = srq->device, .event = IB_EVENT_SRQ_LIMIT_REACHED, .element.srq = srq };

	if (srq->event_handler)
		srq->event_handler(&event, srq->srq_context);
}

u64 usb4_mmap_offset(const struct rdma_user_mmap_entry *entry) { return rdma_user_mmap_get_offset(entry); }
void usb4_cq_complete(struct ib_cq *cq) { cq->comp_handler(cq, cq->cq_context); }
struct ib_mr *usb4_err_mr(int err) { return ERR_PTR(err); }

bool usb4_qp_modify_ok(enum ib_qp_state from, enum ib_qp_state to, enum ib_qp_type type, int mask)
{
	return ib_modify_qp_is_ok(from, to, type, mask);
}

/* The VLAN of a netdev that is one: EtherType, number. */
static u32 usb4_vlan_tag(const struct net_device *ndev)
{
	return is_vlan_dev(ndev) ? (u32)ntohs(vlan_dev_vlan_proto(ndev)) << 16 | vlan_dev_vlan_id(ndev) : 0;
}

/* A netdev that is a VLAN directly above another. */
static bool usb4_vlan_is_over(const struct net_device *vlan, const struct net_device *ndev)
{
#if IS_ENABLED(CONFIG_VLAN_8021Q)
	return is_vlan_dev(vlan) && vlan_dev_priv(vlan)->real_dev == ndev;
#else
	return false;
#endif
}

/* Under RCU; null where there is none, or it is down. */
static struct net_device *usb4_vlan_find(struct net_device *ndev, __be16 proto, u16 id)
{
	struct net_device *vlan = __vlan_find_dev_deep_rcu(ndev, proto, id);

	return vlan && usb4_vlan_is_over(vlan, ndev) && (vlan->flags & IFF_UP) ? vlan : NULL;
}

/* What an address vector says. False where it names no source address. */
bool usb4_ah_facts(struct rdma_ah_attr *ah, struct net_device *ndev, struct usb4_ah_facts *facts)
{
	const struct ib_global_route *grh = rdma_ah_read_grh(ah);
	const struct ib_gid_attr *sgid = grh->sgid_attr;
	struct usb4_path *path = &facts->path;
	struct net_device *out;

	if (!sgid)
		return false;
	facts->roce = ah->type == RDMA_AH_ATTR_TYPE_ROCE && sgid->gid_type == IB_GID_TYPE_ROCE_UDP_ENCAP;
	facts->to_ipv4 = ipv6_addr_v4mapped((const struct in6_addr *)grh->dgid.raw);
	rcu_read_lock();
	out = rcu_dereference(sgid->ndev);
	facts->at_netdev = out == ndev;
	facts->at_vlan = out && usb4_vlan_is_over(out, ndev);
	path->tag = facts->at_vlan ? usb4_vlan_tag(out) : 0;
	rcu_read_unlock();
	path->ipv6 = rdma_gid_attr_network_type(sgid) == RDMA_NETWORK_IPV6;
	path->hop_limit = grh->hop_limit;
	path->traffic_class = grh->traffic_class;
	path->flow_label = grh->flow_label;
	path->sgid_index = grh->sgid_index;
	memcpy(path->sgid, sgid->gid.raw, sizeof(path->sgid));
	memcpy(path->dgid, grh->dgid.raw, sizeof(path->dgid));
	return true;
}

void usb4_ah_dmac(struct rdma_ah_attr *ah, u8 *dmac) { ether_addr_copy(dmac, rdma_ah_retrieve_dmac(ah)); }
u16 usb4_udp_sport(u32 flow_label, u32 qpn, u32 dest_qpn) { return rdma_get_udp_sport(flow_label, qpn, dest_qpn); }

/* Null where the index has no address. */
const struct ib_gid_attr *usb4_gid_attr(struct ib_device *ib, u32 index)
{
	const struct ib_gid_attr *attr = rdma_get_gid_attr(ib, 1, index);

	return IS_ERR(attr) ? NULL : attr;
}

void usb4_gid_attr_put(const struct ib_gid_attr *attr) { rdma_put_gid_attr(attr); }

/* The address vector that means a path whose source address is at hand. */
void usb4_ah_attr_set(struct rdma_ah_attr *ah, const struct usb4_path *path, const struct ib_gid_attr *attr)
{
	ah->type = RDMA_AH_ATTR_TYPE_ROCE;
	ah->grh.sgid_attr = attr;
	ah->grh.sgid_index = path->sgid_index;
	ah->grh.hop_limit = path->hop_limit;
	ah->grh.traffic_class = path->traffic_class;
	ah->grh.flow_label = path->flow_label;
	memcpy(ah->grh.dgid.raw, path->dgid, sizeof(path->dgid));
	ether_addr_copy(ah->roce.dmac, path->dmac);
}

bool usb4_gid_is_ours(struct ib_device *ib, struct net_device *ndev, const u8 *gid)
{
	const struct ib_gid_attr *attr =
		rdma_find_gid_by_port(ib, (const union ib_gid *)gid, IB_GID_TYPE_ROCE_UDP_ENCAP, 1, ndev);

	if (IS_ERR(attr))
		return false;
	rdma_put_gid_attr(attr);
	return true;
}

/* Only rxe's own devices are found by netdev: ours never say theirs that way. */
bool usb4_rxe_is_on(struct net_device *ndev)
{
	struct ib_device *rxe = ib_device_get_by_netdev(ndev, RDMA_DRIVER_RXE);

	if (!rxe)
		return false;
	ib_device_put(rxe);
	return true;
}

/* The attribute of the GID itself is not ours to keep; query_qp returns addresses and indices. */
void usb4_ah_keep(struct rdma_ah_attr *dest, const struct rdma_ah_attr *src)
{
	*dest = *src;
	dest->grh.sgid_attr = NULL;
}

struct rdma_hw_stats *usb4_stats_alloc(const struct rdma_stat_desc *descs, int count)
{
	return rdma_alloc_hw_stats_struct(descs, count, RDMA_HW_STATS_DEFAULT_LIFESPAN);
}

void usb4_stats_set(struct rdma_hw_stats *stats, int index, u64 value) { stats->value[index] = value; }
int usb4_stats_count(const struct rdma_hw_stats *stats) { return stats->num_counters; }

int usb4_res_put(struct sk_buff *msg, const struct usb4_detail *details, size_t count)
{
	struct nlattr *table = nla_nest_start(msg, RDMA_NLDEV_ATTR_DRIVER);
	size_t n;
	int err;

	if (!table)
		return -EMSGSIZE;
	for (n = 0; n < count; n++) {
		err = details[n].hex ? rdma_nl_put_driver_u64_hex(msg, details[n].name, details[n].value) :
				       rdma_nl_put_driver_u64(msg, details[n].name, details[n].value);
		if (err) {
			nla_nest_cancel(msg, table);
			return err;
		}
	}
	nla_nest_end(msg, table);
	return 0;
}

/* ---- memory ---- */

struct ib_umem *usb4_umem_get(struct ib_device *ib, u64 start, u64 length, int access)
{
	return ib_umem_get_va(ib, start, length, access);
}

bool usb4_umem_is_err(const struct ib_umem *umem) { return IS_ERR(umem); }
long usb4_umem_err(const struct ib_umem *umem) { return PTR_ERR(umem); }

size_t usb4_umem_page_count(struct ib_umem *umem)
{
	return PAGE_ALIGN(ib_umem_offset(umem) + umem->length) >> PAGE_SHIFT;
}

size_t usb4_umem_pages(struct ib_umem *umem, struct page **pages, size_t count)
{
	struct sg_page_iter iter;
	size_t n = 0;

	for_each_sgtable_page(&umem->sgt_append.sgt, &iter, 0)
		if (n < count)
			pages[n++] = sg_page_iter_page(&iter);
	return n;
}


void usb4_page_read(void *to, struct page *page, size_t offset, size_t len)
{
	memcpy_from_page(to, page, offset, len);
}

/* After it was written through a mapping of the kernel's. */
void usb4_page_flush(struct page *page) { flush_dcache_page(page); }

void *usb4_page_map(struct page *page) { return kmap_local_page(page); }
void usb4_page_unmap(void *base) { kunmap_local(base); }
#if IS_ENABLED(CONFIG_DMA_SHARED_BUFFER)
MODULE_IMPORT_NS("DMA_BUF");

static struct iosys_map usb4_dmabuf_iosys(const struct usb4_dmabuf *mapping)
{
	struct iosys_map map;

	if (mapping->iomem)
		iosys_map_set_vaddr_iomem(&map, (void __iomem *)mapping->address);
	else
		iosys_map_set_vaddr(&map, mapping->address);
	return map;
}

struct dma_buf *usb4_dmabuf_get(int fd) { return dma_buf_get(fd); }
void usb4_dmabuf_put(struct dma_buf *buf) { dma_buf_put(buf); }
u64 usb4_dmabuf_size(const struct dma_buf *buf) { return buf->size; }
bool usb4_dmabuf_has_vmap(const struct dma_buf *buf) { return buf->ops->vmap; }
int usb4_dmabuf_begin(struct dma_buf *buf) { return dma_buf_begin_cpu_access(buf, DMA_BIDIRECTIONAL); }
void usb4_dmabuf_end(struct dma_buf *buf) { dma_buf_end_cpu_access(buf, DMA_BIDIRECTIONAL); }

int usb4_dmabuf_map(struct dma_buf *buf, struct usb4_dmabuf *mapping)
{
	struct iosys_map map = {};
	int err = dma_buf_vmap_unlocked(buf, &map);

	mapping->iomem = map.is_iomem;
	mapping->address = map.is_iomem ? (void __force *)map.vaddr_iomem : map.vaddr;
	return err;
}

void usb4_dmabuf_unmap(struct dma_buf *buf, const struct usb4_dmabuf *mapping)
{
	struct iosys_map map = usb4_dmabuf_iosys(mapping);

	dma_buf_vunmap_unlocked(buf, &map);
}

void usb4_dmabuf_read(const struct usb4_dmabuf *mapping, size_t offset, void *to, size_t len)
{
	struct iosys_map map = usb4_dmabuf_iosys(mapping);

	iosys_map_memcpy_from(to, &map, offset, len);
}

void usb4_dmabuf_write(const struct usb4_dmabuf *mapping, size_t offset, const void *from, size_t len)
{
	struct iosys_map map = usb4_dmabuf_iosys(mapping);

	iosys_map_memcpy_to(&map, offset, from, len);
}
#else
struct dma_buf *usb4_dmabuf_get(int fd) { return ERR_PTR(-EOPNOTSUPP); }
void usb4_dmabuf_put(struct dma_buf *buf) { }
u64 usb4_dmabuf_size(const struct dma_buf *buf) { return 0; }
bool usb4_dmabuf_has_vmap(const struct dma_buf *buf) { return false; }
int usb4_dmabuf_begin(struct dma_buf *buf) { return -EOPNOTSUPP; }
void usb4_dmabuf_end(struct dma_buf *buf) { }
int usb4_dmabuf_map(struct dma_buf *buf, struct usb4_dmabuf *mapping) { return -EOPNOTSUPP; }
void usb4_dmabuf_unmap(struct dma_buf *buf, const struct usb4_dmabuf *mapping) { }
void usb4_dmabuf_read(const struct usb4_dmabuf *mapping, size_t offset, void *to, size_t len) { }
void usb4_dmabuf_write(const struct usb4_dmabuf *mapping, size_t offset, const void *from, size_t len) { }
#endif

void *usb4_vmalloc_user(size_t size) { return vmalloc_user(size); }
size_t usb4_memory_size(void) { return totalram_pages() << PAGE_SHIFT; }
void usb4_mem_copy(void *to, const void *from, size_t len) { memcpy(to, from, len); }
bool usb4_crc32_is_fast(void) { return crc32_optimizations() & CRC32_LE_OPTIMIZATION; }
u32 usb4_crc32(u32 state, const u8 *bytes, size_t len) { return crc32_le(state, bytes, len); }
u32 usb4_load_acquire(const u32 *at) { return smp_load_acquire(at); }
void usb4_store_release(u32 *at, u32 value) { smp_store_release(at, value); }

/* ---- locks, time ---- */

void usb4_spin_lock_bh(spinlock_t *lock) { spin_lock_bh(lock); }
void usb4_spin_unlock_bh(spinlock_t *lock) { spin_unlock_bh(lock); }
bool usb4_spin_trylock_bh(spinlock_t *lock) { return spin_trylock_bh(lock); }
bool usb4_spin_trylock(spinlock_t *lock) { return spin_trylock(lock); }
void usb4_spin_unlock(spinlock_t *lock) { spin_unlock(lock); }
bool usb4_irqs_off(void) { return irqs_disabled(); }

unsigned long usb4_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

void usb4_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags) { spin_unlock_irqrestore(lock, flags); }
void usb4_tasklet_schedule(struct tasklet_struct *tasklet) { tasklet_schedule(tasklet); }
u32 usb4_caller(void) { return task_tgid_nr(current); }
u32 usb4_cpu(void) { return raw_smp_processor_id(); }

/*
 * Whether a softirq for `owner` takes its time from somebody else: not from the idle, nor in a thread that nobody waits
 * behind, or none but the owner, as far as one can tell.
 */
bool usb4_robs(u32 owner, bool owner_runs)
{
	if (is_idle_task(current) || task_tgid_nr(current) == owner)
		return false;
	return !(current->flags & PF_KTHREAD) || !(owner_runs || single_task_running());
}

void usb4_rcu_wait(void) { synchronize_rcu_expedited(); }
void usb4_rcu_tasks_wait(void) { synchronize_rcu_tasks(); }
void usb4_sleep_ms(unsigned int ms) { msleep(ms); }

/* ---- the netdev and its packets ---- */

bool usb4_netdev_usable(const struct net_device *ndev)
{
	return (ndev->type == ARPHRD_ETHER || ndev->type == ARPHRD_LOOPBACK) && ndev->addr_len == ETH_ALEN;
}

bool usb4_netdev_is_vlan(const struct net_device *ndev) { return is_vlan_dev(ndev); }
void usb4_netdev_hold(struct net_device *ndev) { dev_hold(ndev); }
void usb4_netdev_put(struct net_device *ndev) { dev_put(ndev); }
u32 usb4_netdev_mtu(const struct net_device *ndev) { return READ_ONCE(ndev->mtu); }
const u8 *usb4_netdev_address(const struct net_device *ndev) { return ndev->dev_addr; }
bool usb4_netdev_is_up(const struct net_device *ndev) { return ndev->flags & IFF_UP; }
bool usb4_netdev_is_registered(const struct net_device *ndev) { return ndev->reg_state == NETREG_REGISTERED; }
/* Tells the peers its addresses, by gratuitous ARP and unsolicited advertisements. Under RTNL. */
void usb4_netdev_announce(struct net_device *ndev) { __netdev_notify_peers(ndev); }

/* Itself, or a VLAN directly above it. */
bool usb4_netdev_carries(const struct net_device *ndev, const struct net_device *upper)
{
	return upper == ndev || usb4_vlan_is_over(upper, ndev);
}

const void *usb4_netdev_namespace(const struct net_device *ndev) { return dev_net(ndev); }
u32 usb4_netdev_port_state(struct net_device *ndev) { return ib_get_curr_port_state(ndev); }

/* With a reference; null where there is no such VLAN above, or it is down. */
struct net_device *usb4_netdev_vlan(struct net_device *ndev, u32 tag)
{
	struct net_device *vlan;

	rcu_read_lock();
	vlan = usb4_vlan_find(ndev, htons(tag >> 16), tag & VLAN_VID_MASK);
	if (vlan)
		dev_hold(vlan);
	rcu_read_unlock();
	return vlan;
}

/* Mb/s, or 0 where the netdev does not say. Under RTNL, and without the netdev's own lock. */
u32 usb4_netdev_speed(struct net_device *ndev)
{
	struct ethtool_link_ksettings settings = {};
	int err = __ethtool_get_link_ksettings(ndev, &settings);

	return err || settings.base.speed == (u32)SPEED_UNKNOWN ? 0 : settings.base.speed;
}

int usb4_hook_register(struct nf_hook_ops *ops, struct net_device *ndev, nf_hookfn *hook, void *priv)
{
	ops->hook = hook;
	ops->dev = ndev;
	ops->priv = priv;
	ops->pf = NFPROTO_NETDEV;
	ops->hooknum = NF_NETDEV_INGRESS;
	ops->priority = INT_MIN;
	return nf_register_net_hook(dev_net(ndev), ops);
}

void usb4_hook_unregister(struct nf_hook_ops *ops, struct net_device *ndev)
{
	nf_unregister_net_hook(dev_net(ndev), ops);
}

struct sk_buff *usb4_skb_alloc(u32 len, struct net_device *ndev)
{
	u32 room = LL_RESERVED_SPACE(ndev);
	struct sk_buff *skb = alloc_skb(room + len + ndev->needed_tailroom, GFP_ATOMIC | __GFP_NOWARN);

	if (skb) {
		skb_reserve(skb, room - ETH_HLEN);
		skb->dev = ndev;
	}
	return skb;
}

u8 *usb4_skb_put(struct sk_buff *skb, u32 len) { return skb_put(skb, len); }

/* A piece of a page behind what the frame has. The frame holds on to the page. */
bool usb4_skb_add_page(struct sk_buff *skb, struct page *page, u32 offset, u32 len)
{
	int index = skb_shinfo(skb)->nr_frags;

	if (index >= MAX_SKB_FRAGS)
		return false;
	get_page(page);
	skb_add_rx_frag(skb, index, page, offset, len, len);
	return true;
}

void *usb4_skb_credit(const struct sk_buff *skb) { return skb_shinfo(skb)->destructor_arg; }

void usb4_skb_send_prepare(struct sk_buff *skb, u32 network_offset, u32 transport_offset,
			   void (*done)(struct sk_buff *skb), void *credit)
{
	skb_reset_mac_header(skb);
	skb_set_network_header(skb, network_offset);
	skb_set_transport_header(skb, transport_offset);
	skb->protocol = eth_hdr(skb)->h_proto;
	skb->ip_summed = CHECKSUM_NONE;
	skb_shinfo(skb)->destructor_arg = credit;
	skb->destructor = done;
}

static void usb4_loan_complete(struct sk_buff *skb, struct ubuf_info *ubuf, bool read_in_place)
{
	struct usb4_loan *loan = container_of(ubuf, struct usb4_loan, ubuf);

	if (refcount_dec_and_test(&ubuf->refcnt))
		loan->back(loan);
}

static const struct ubuf_info_ops usb4_loan_ops = { .complete = usb4_loan_complete };

/*
 * Has the stack call back once nobody reads the frame's pages any more: neither the frame nor a copy of its head.
 * Whoever keeps such a copy for longer than the way out, as a packet socket does, is given the bytes instead.
 */
void usb4_skb_borrow(struct sk_buff *skb, struct usb4_loan *loan, void (*back)(struct usb4_loan *loan))
{
	loan->ubuf.ops = &usb4_loan_ops;
	loan->ubuf.flags = SKBFL_ZEROCOPY_FRAG;
	refcount_set(&loan->ubuf.refcnt, 1);
	loan->back = back;
	skb_zcopy_init(skb, &loan->ubuf);
}

int usb4_skb_xmit(struct sk_buff *skb) { return dev_queue_xmit(skb); }

bool usb4_skb_is_in_vlan(const struct sk_buff *skb) { return is_vlan_dev(skb->dev); }
struct sk_buff *usb4_skb_clone(struct sk_buff *skb) { return skb_clone(skb, GFP_ATOMIC); }
void usb4_skb_turn(struct sk_buff *skb) { skb->protocol = eth_type_trans(skb, skb->dev); }
void usb4_skb_rx(struct sk_buff *skb) { netif_rx(skb); }

/* From a VLAN to the netdev below, tagged. */
void usb4_skb_lower(struct sk_buff *skb)
{
#if IS_ENABLED(CONFIG_VLAN_8021Q)
	__vlan_hwaccel_put_tag(skb, vlan_dev_vlan_proto(skb->dev), vlan_dev_vlan_id(skb->dev));
	skb->dev = vlan_dev_priv(skb->dev)->real_dev;
#endif
}

void usb4_skb_free(struct sk_buff *skb) { kfree_skb(skb); }
void usb4_skb_keep(struct sk_buff *skb) { skb_get(skb); }
void usb4_skb_consume(struct sk_buff *skb) { consume_skb(skb); }
/* What a hook wants to know of a frame before anything else. */
void usb4_skb_facts(const struct sk_buff *skb, struct usb4_skb_facts *facts)
{
	facts->len = skb->len;
	facts->vlan_proto = skb_vlan_tag_present(skb) ? ntohs(skb->vlan_proto) : 0;
	facts->vlan_id = skb_vlan_tag_present(skb) ? skb_vlan_tag_get_id(skb) : 0;
	facts->protocol = ntohs(skb->protocol);
	facts->to_host = skb->pkt_type == PACKET_HOST || skb->pkt_type == PACKET_MULTICAST;
	facts->to_other = skb->pkt_type == PACKET_OTHERHOST;
	facts->whole = !skb_has_frag_list(skb) && skb_frags_readable(skb) && !skb_is_gso(skb);
}

const u8 *usb4_skb_destination(const struct sk_buff *skb) { return eth_hdr(skb)->h_dest; }

/* Null where the frame's tag is that of no VLAN. In an RCU section, as all hooks. */
const u8 *usb4_skb_vlan_address(const struct sk_buff *skb)
{
	const struct net_device *vlan = usb4_vlan_find(skb->dev, skb->vlan_proto, skb_vlan_tag_get_id(skb));

	return vlan ? vlan->dev_addr : NULL;
}

/* Segment 0 is the linear part, segment n+1 the fragment n. All memory is mapped: the module is for 64 bits only. */
const u8 *usb4_skb_segment(const struct sk_buff *skb, u32 index, u32 *len)
{
	const skb_frag_t *frag;

	if (!index) {
		*len = skb_headlen(skb);
		return skb->data;
	}
	if (index > skb_shinfo(skb)->nr_frags)
		return NULL;
	frag = &skb_shinfo(skb)->frags[index - 1];
	*len = skb_frag_size(frag);
	return skb_frag_address(frag);
}
