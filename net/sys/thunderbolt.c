// SPDX-License-Identifier: GPL-2.0
/*
 * USB4 services, XDomains, rings and delayed work: what C alone can say. See helpers.c.
 *
 * What is called of Rust stands in the table that net/kapi/service.rs gives.
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "bindings.h"
#include "compat.h"

/* ---- presence on the bus ---- */

static struct tb_property_dir *usb4_tb_native_dir;
static struct tb_property_dir *usb4_tb_stock_dir;
static uuid_t usb4_tb_uuids[4];
static atomic_t usb4_tb_inside;

/* Who is told, from usb4_tb_start() on, and what it is called with. */
static const struct usb4_tb_calls *usb4_tb_calls;
static void *usb4_tb_context;

static int usb4_tb_probe(USB4_TB_PROBE_ARGS) { return usb4_tb_calls->probe(usb4_tb_context, svc); }
static void usb4_tb_remove(struct tb_service *svc) { usb4_tb_calls->remove(usb4_tb_context, svc); }
static void usb4_tb_shutdown(struct tb_service *svc) { usb4_tb_calls->suspend(usb4_tb_context, svc); }

static int usb4_tb_suspend(struct device *dev)
{
	usb4_tb_calls->suspend(usb4_tb_context, tb_to_service(dev));
	return 0;
}

static int usb4_tb_resume(struct device *dev)
{
	usb4_tb_calls->resume(usb4_tb_context, tb_to_service(dev));
	return 0;
}

static DEFINE_SIMPLE_DEV_PM_OPS(usb4_tb_pm_ops, usb4_tb_suspend, usb4_tb_resume);

static const struct tb_service_id usb4_tb_ids[] = {
	{ TB_SERVICE("usb4rdma", 1) },
	{ TB_SERVICE("network", 1) },
	{ }
};

/* Only our own key loads the module by itself; who it is for `network` is the administrator's choice (modprobe.d). */
MODULE_ALIAS("tbsvc:kusb4rdmap00000001v*r*");

static struct tb_service_driver usb4_tb_driver = {
	.driver = {
		.owner = THIS_MODULE,
		.name = "usb4_rdma",
		.pm = pm_sleep_ptr(&usb4_tb_pm_ops),
	},
	.probe = usb4_tb_probe,
	.remove = usb4_tb_remove,
	.shutdown = usb4_tb_shutdown,
	.id_table = usb4_tb_ids,
};

static int usb4_tb_notify(struct notifier_block *block, unsigned long event, void *data)
{
	if (event == BUS_NOTIFY_DEL_DEVICE)
		usb4_tb_calls->gone(usb4_tb_context, data);
	return NOTIFY_DONE;
}

static struct notifier_block usb4_tb_notifier = { .notifier_call = usb4_tb_notify };

static struct tb_property_dir *usb4_tb_dir(const uuid_t *uuid, u32 settings)
{
	struct tb_property_dir *dir = tb_property_create_dir(uuid);

	if (!dir)
		return NULL;
	if (tb_property_add_immediate(dir, "prtcid", 1) || tb_property_add_immediate(dir, "prtcvers", 1) ||
	    tb_property_add_immediate(dir, "prtcrevs", 1) || tb_property_add_immediate(dir, "prtcstns", settings)) {
		tb_property_free_dir(dir);
		return NULL;
	}
	return dir;
}

#define USB4_PCI_CLASS 0x0c0340 /* serial bus, USB, USB4 host interface */

/* One of its USB4 host interfaces is AMD's. */
bool usb4_tb_is_amd_host(void)
{
	struct pci_dev *pdev = NULL;

	while ((pdev = pci_get_class(USB4_PCI_CLASS, pdev))) {
		if (pdev->vendor == PCI_VENDOR_ID_AMD) {
			pci_dev_put(pdev);
			return true;
		}
	}
	return false;
}

/*
 * Binds services and offers both directories, the native one first, so that a peer which reads both meets it first.
 * -EEXIST: another driver offers `network`. Nothing is left behind on an error.
 */
int usb4_tb_start(const struct usb4_tb_identity *identity, const struct usb4_tb_calls *calls, void *context)
{
	int err = -ENOMEM;

	usb4_tb_calls = calls;
	usb4_tb_context = context;
	import_uuid(&usb4_tb_uuids[0], identity->stock_directory);
	import_uuid(&usb4_tb_uuids[1], identity->native_directory);
	import_uuid(&usb4_tb_uuids[2 + USB4_TB_STOCK], identity->stock_protocol);
	import_uuid(&usb4_tb_uuids[2 + USB4_TB_NATIVE], identity->native_protocol);
	usb4_tb_stock_dir = usb4_tb_dir(&usb4_tb_uuids[0], identity->stock_settings);
	if (!usb4_tb_stock_dir)
		return err;
	usb4_tb_native_dir = usb4_tb_dir(&usb4_tb_uuids[1], identity->native_features);
	if (!usb4_tb_native_dir)
		goto free_stock;
	/* `network` decides who drives the cables: nothing of ours shows on them before it is ours. */
	err = tb_register_property_dir("network", usb4_tb_stock_dir);
	if (err)
		goto free_native;
	tb_unregister_property_dir("network", usb4_tb_stock_dir);
	err = tb_register_property_dir("usb4rdma", usb4_tb_native_dir);
	if (err)
		goto free_native;
	err = tb_register_property_dir("network", usb4_tb_stock_dir);
	if (err)
		goto drop_native;
	err = tb_register_service_driver(&usb4_tb_driver);
	if (err)
		goto drop_stock;
	/* The bus is not exported; the driver knows it. */
	err = bus_register_notifier(usb4_tb_driver.driver.bus, &usb4_tb_notifier);
	if (!err)
		return 0;
	tb_unregister_service_driver(&usb4_tb_driver);
drop_stock:
	tb_unregister_property_dir("network", usb4_tb_stock_dir);
drop_native:
	tb_unregister_property_dir("usb4rdma", usb4_tb_native_dir);
free_native:
	tb_property_free_dir(usb4_tb_native_dir);
free_stock:
	tb_property_free_dir(usb4_tb_stock_dir);
	return err;
}

/* The first half of the end: every service is removed from us, and none comes any more. */
void usb4_tb_unbind(void) { tb_unregister_service_driver(&usb4_tb_driver); }

/* The second half, when no cable is ours any more; the peers are told. */
void usb4_tb_leave(void)
{
	bus_unregister_notifier(usb4_tb_driver.driver.bus, &usb4_tb_notifier);
	tb_unregister_property_dir("network", usb4_tb_stock_dir);
	tb_unregister_property_dir("usb4rdma", usb4_tb_native_dir);
	tb_property_free_dir(usb4_tb_native_dir);
	tb_property_free_dir(usb4_tb_stock_dir);
}

/* Takes every message of both protocols: the walk of the handlers ends at ours. */
static int usb4_tb_message(const void *buf, size_t size, void *data)
{
	atomic_inc(&usb4_tb_inside);
	usb4_tb_calls->message(usb4_tb_context, buf, size);
	atomic_dec(&usb4_tb_inside);
	return 1;
}

static struct tb_protocol_handler usb4_tb_handlers[] = {
	[USB4_TB_STOCK] = { .uuid = &usb4_tb_uuids[2 + USB4_TB_STOCK], .callback = usb4_tb_message },
	[USB4_TB_NATIVE] = { .uuid = &usb4_tb_uuids[2 + USB4_TB_NATIVE], .callback = usb4_tb_message },
};

int usb4_tb_listen(void)
{
	int err = tb_register_protocol_handler(&usb4_tb_handlers[USB4_TB_STOCK]);

	if (err)
		return err;
	err = tb_register_protocol_handler(&usb4_tb_handlers[USB4_TB_NATIVE]);
	if (err)
		tb_unregister_protocol_handler(&usb4_tb_handlers[USB4_TB_STOCK]);
	return err;
}

/*
 * The core calls handlers without its lock and does not wait for them. A task between the list and our first line, or
 * between our last and the list, has no voluntary switch in between, so a grace period of RCU tasks outwaits it; in
 * between the count tells.
 */
void usb4_tb_deafen(void)
{
	tb_unregister_protocol_handler(&usb4_tb_handlers[USB4_TB_NATIVE]);
	tb_unregister_protocol_handler(&usb4_tb_handlers[USB4_TB_STOCK]);
	synchronize_rcu_tasks();
	while (atomic_read_acquire(&usb4_tb_inside))
		msleep(1);
	synchronize_rcu_tasks();
}

/* ---- XDomains ---- */

bool usb4_tb_service_is(const struct tb_service *svc, const char *key) { return !strcmp(svc->key, key); }
struct tb_xdomain *usb4_tb_service_parent(struct tb_service *svc) { return tb_service_parent(svc); }
struct tb_xdomain *usb4_tb_xdomain_get(struct tb_xdomain *xd) { return tb_xdomain_get(xd); }
void usb4_tb_xdomain_put(struct tb_xdomain *xd) { tb_xdomain_put(xd); }

/* Its paths are down, or their owner is: nothing may be asked of it any more. */
bool usb4_tb_xdomain_dead(const struct tb_xdomain *xd)
{
	return READ_ONCE(xd->is_unplugged) || !READ_ONCE(xd->tb->root_switch);
}

void usb4_tb_device_get(struct device *dev) { get_device(dev); }
void usb4_tb_device_put(struct device *dev) { put_device(dev); }
const char *usb4_tb_xdomain_name(const struct tb_xdomain *xd) { return dev_name(&xd->dev); }
struct device *usb4_tb_dma(struct tb_xdomain *xd) { return xd->tb->nhi->dev; }
struct usb4_tb_ports {
	u32 below, count;
};

static int usb4_tb_port(struct device *dev, void *data)
{
	struct usb4_tb_ports *ports = data;
	u32 number;

	if (sscanf(dev_name(dev), "usb4_port%u", &number) == 1 && number < ports->below)
		ports->count++;
	return 0;
}

/* USB4 ports with a number below `below` of the router that a domain of the bus begins with; none without a domain. */
u32 usb4_tb_ports_below(const struct tb_xdomain *xd, u32 domain, u32 below)
{
	struct usb4_tb_ports ports = { .below = below };
	struct device *router;
	char name[16];

	snprintf(name, sizeof(name), "%u-0", domain);
	router = bus_find_device_by_name(xd->dev.bus, NULL, name);
	if (router)
		device_for_each_child(router, &ports, usb4_tb_port);
	put_device(router);
	return ports.count;
}

u32 usb4_tb_speed(const struct tb_xdomain *xd) { return READ_ONCE(xd->link_speed); }

/* Lanes that transmit. */
u32 usb4_tb_width(const struct tb_xdomain *xd)
{
	switch (READ_ONCE(xd->link_width)) {
	case TB_LINK_WIDTH_DUAL:
		return 2;
	case TB_LINK_WIDTH_ASYM_TX:
		return 3;
	default:
		return 1;
	}
}

/* ---- rings ---- */

/* Registers of the host interface, USB4 specification, "Host Interface Adapter Layer". */
#define USB4_NHI_TX_RINGS 0x00000
#define USB4_NHI_RX_RINGS 0x08000
#define USB4_NHI_RING_STEP 16
#define USB4_NHI_RING_INDEX 8
#define USB4_NHI_INTERRUPT_ENABLE 0x38200
#define USB4_NHI_STATUS_CLEAR 0x37808
#define USB4_NHI_THROTTLE 0x38c00
#define USB4_NHI_THROTTLE_STEP 256
#define USB4_NHI_THROTTLE_MASK 0xffff
#define USB4_NHI_POSTED_NS 500
#define USB4_NHI_VECTOR_TRIES 100
#define USB4_NHI_AUTO_CLEAR BIT(0) /* QUIRK_AUTO_CLEAR_INT of drivers/thunderbolt/nhi.h */

/* Before the ring is started. Transmit rings have no such parameter, and do the same. */
void usb4_tb_ring_wake(struct tb_ring *ring, void (*wake)(void *), void *data)
{
	ring->start_poll = wake;
	ring->poll_data = data;
}

/* Before the ring is started. */
void usb4_tb_ring_flow(struct tb_ring *ring, bool e2e)
{
	if (e2e)
		ring->flags |= RING_FLAG_E2E;
	else
		ring->flags &= ~RING_FLAG_E2E;
}

static u32 usb4_tb_ring_bit(const struct tb_ring *ring)
{
	return ring->hop + (ring->is_tx ? 0 : ring->nhi->hop_count);
}

/* Locks of the ring are held. */
static void usb4_tb_ring_enable(struct tb_ring *ring)
{
	u32 bit = usb4_tb_ring_bit(ring);
	void __iomem *at = ring->nhi->iobase + USB4_NHI_INTERRUPT_ENABLE + bit / 32 * 4;

	iowrite32(ioread32(at) | BIT(bit % 32), at);
}

/*
 * tb_ring_stop() complains about an interrupt that is masked, as it is while its owner polls. From here on the
 * owner is not woken any more, and nothing is masked.
 */
void usb4_tb_ring_stop(struct tb_ring *ring)
{
	unsigned long flags;

	spin_lock_irqsave(&ring->nhi->lock, flags);
	spin_lock(&ring->lock);
	ring->start_poll = NULL;
	if (ring->running && !ring->nhi->going_away)
		usb4_tb_ring_enable(ring);
	spin_unlock(&ring->lock);
	spin_unlock_irqrestore(&ring->nhi->lock, flags);
	if (ring->irq > 0)
		synchronize_irq(ring->irq);
	tb_ring_stop(ring);
}

void usb4_tb_ring_unmask(struct tb_ring *ring) { tb_ring_poll_complete(ring); }

/* The status bit stays set, and no further event raises the vector, until usb4_tb_ring_rearm(). */
static irqreturn_t usb4_tb_msix(int irq, void *data)
{
	struct tb_ring *ring = data;
	void (*wake)(void *) = READ_ONCE(ring->start_poll);

	if (wake)
		wake(ring->poll_data);
	return IRQ_HANDLED;
}

/*
 * Clears the ring's status, so that the next event raises the vector. The register takes ones and no more. The write is
 * posted: an event before it arrives is lost, so the caller looks at the ring again, and not too soon. To wait for the
 * write with a read would cost more.
 */
void usb4_tb_ring_rearm(struct tb_ring *ring)
{
	u32 bit = usb4_tb_ring_bit(ring);

	if (READ_ONCE(ring->nhi->going_away))
		return;
	iowrite32(BIT(bit % 32), ring->nhi->iobase + USB4_NHI_STATUS_CLEAR + bit / 32 * 4);
	ndelay(USB4_NHI_POSTED_NS);
}

/*
 * Takes the ring's vector from the core, whose handler masks the interrupt with a read and a write of a register that
 * all rings share, and needs as much again to unmask it. The core frees the vector with the ring: free_irq() goes by
 * the ring, whoever's handler it is. Returns 1; 0 where the core keeps it: no vector, or status bits that clear
 * themselves; or an error, after which the ring can only be freed. Between the two handlers there is none, and the
 * vector's number is the core's, which gives it back only together with a handler: so what lacks memory for ours waits
 * for some, and only if there is none to be had is the number lost.
 */
int usb4_tb_ring_take_vector(struct tb_ring *ring)
{
	int err, tries = USB4_NHI_VECTOR_TRIES;

	if (ring->irq <= 0 || ring->nhi->quirks & USB4_NHI_AUTO_CLEAR)
		return 0;
	free_irq(ring->irq, ring);
	while ((err = request_irq(ring->irq, usb4_tb_msix, 0, KBUILD_MODNAME, ring)) && --tries)
		msleep(1);
	if (!err)
		return 1;
	dev_err(ring->nhi->dev, "no interrupt for %s ring %d: %d\n", ring->is_tx ? "Tx" : "Rx", ring->hop, err);
	ring->irq = 0; /* the core would free it once more */
	return err;
}

/* Also while the ring runs; tb_ring_throttling() wants it stopped. */
void usb4_tb_ring_throttle(struct tb_ring *ring, u32 nsec)
{
	u32 steps = min_t(u32, DIV_ROUND_UP(nsec, USB4_NHI_THROTTLE_STEP), USB4_NHI_THROTTLE_MASK);
	unsigned long flags;

	spin_lock_irqsave(&ring->lock, flags);
	ring->interval_nsec = steps * USB4_NHI_THROTTLE_STEP;
	if (ring->running && ring->irq > 0 && !ring->nhi->going_away)
		iowrite32(steps, ring->nhi->iobase + USB4_NHI_THROTTLE + ring->vector * 4);
	spin_unlock_irqrestore(&ring->lock, flags);
}

/* Tells the host interface of descriptors; `value` as the register wants it. Orders writes to memory before it. */
void usb4_tb_doorbell(struct tb_ring *ring, u32 value)
{
	u32 base = ring->is_tx ? USB4_NHI_TX_RINGS : USB4_NHI_RX_RINGS;

	if (READ_ONCE(ring->nhi->going_away))
		return;
	iowrite32(value, ring->nhi->iobase + base + ring->hop * USB4_NHI_RING_STEP + USB4_NHI_RING_INDEX);
}

void usb4_dma_wmb(void) { dma_wmb(); }
void usb4_dma_rmb(void) { dma_rmb(); }

/* ---- delayed work ---- */

static struct workqueue_struct *usb4_wq;

/* Not for memory reclaim: what runs here waits for work of the thunderbolt driver that is not either. */
int usb4_work_start(void)
{
	usb4_wq = alloc_workqueue("usb4_rdma", WQ_UNBOUND, 0);
	return usb4_wq ? 0 : -ENOMEM;
}

void usb4_work_stop(void) { destroy_workqueue(usb4_wq); }

/* @waits: @fn waits for other work of ours, and so is of a class of its own for lockdep, which else sees work that waits
 * for itself.
 */
void usb4_work_init(struct usb4_work *work, void (*fn)(struct work_struct *), bool waits)
{
	if (waits)
		INIT_DELAYED_WORK(&work->work, fn);
	else
		INIT_DELAYED_WORK(&work->work, fn);
}

void usb4_work_kick(struct usb4_work *work) { mod_delayed_work(usb4_wq, &work->work, 0); }

/* Not before the time; and does not put off a kick. */
void usb4_work_after(struct usb4_work *work, u64 nsec)
{
	queue_delayed_work(usb4_wq, &work->work, nsecs_to_jiffies(nsec) + 1);
}

void usb4_work_flush(struct usb4_work *work) { flush_delayed_work(&work->work); }
void usb4_work_close(struct usb4_work *work) { disable_delayed_work_sync(&work->work); }
