// SPDX-License-Identifier: GPL-2.0
/*
 * On-demand paging: the core's ib_umem_odp, which follows the owner's page table. The table that packets look at is
 * ours (rdma/kapi/paged.rs); these functions keep it in step, under the umem's mutex.
 */
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/workqueue.h>
#include <rdma/ib_umem_odp.h>
#include <rdma/ib_verbs.h>
#include "bindings.h"

void usb4_op_page_here(void *owner, size_t index, struct page *page, bool writable);
void usb4_op_pages_gone(void *owner, size_t first, size_t count);

#ifdef CONFIG_INFINIBAND_ON_DEMAND_PAGING

/* What may have been written through our table is dirty, whatever the owner's page table says. */
static void usb4_paged_dirty(struct ib_umem_odp *odp, size_t first, size_t end)
{
	for (; first < end; first++)
		if (odp->map.pfn_list[first] & HMM_PFN_WRITE)
			set_page_dirty(compound_head(hmm_pfn_to_page(odp->map.pfn_list[first])));
}

static void usb4_paged_withdraw(struct ib_umem_odp *odp, unsigned long start, unsigned long end)
{
	unsigned long base = ib_umem_start(odp);
	size_t first = (start - base) >> PAGE_SHIFT;
	size_t last = (end - base) >> PAGE_SHIFT;

	if (odp->private)
		usb4_op_pages_gone(odp->private, first, last - first);
	usb4_paged_dirty(odp, first, last);
	ib_umem_odp_unmap_dma_pages(odp, start, end);
}

static bool usb4_paged_invalidate(struct mmu_interval_notifier *notifier,
				  const struct mmu_notifier_range *range, unsigned long seq)
{
	struct ib_umem_odp *odp = container_of(notifier, struct ib_umem_odp, notifier);

	if (!mmu_notifier_range_blockable(range))
		return false;
	mutex_lock(&odp->umem_mutex);
	mmu_interval_set_seq(notifier, seq);
	usb4_paged_withdraw(odp, max(ib_umem_start(odp), range->start), min(ib_umem_end(odp), range->end));
	mutex_unlock(&odp->umem_mutex);
	return true;
}

static const struct mmu_interval_notifier_ops usb4_paged_ops = {
	.invalidate = usb4_paged_invalidate,
};

struct ib_umem_odp *usb4_paged_get(struct ib_device *ib, u64 start, u64 length, int access, long *err)
{
	struct ib_umem_odp *odp = ib_umem_odp_get(ib, start, length, access, &usb4_paged_ops);

	*err = PTR_ERR_OR_ZERO(odp);
	return IS_ERR(odp) ? NULL : odp;
}

size_t usb4_paged_count(struct ib_umem_odp *odp) { return ib_umem_odp_num_pages(odp); }

void usb4_paged_own(struct ib_umem_odp *odp, void *owner)
{
	mutex_lock(&odp->umem_mutex);
	odp->private = owner;
	mutex_unlock(&odp->umem_mutex);
}

int usb4_paged_bring(struct ib_umem_odp *odp, size_t first, size_t count, bool write, bool fault)
{
	u64 at = ib_umem_start(odp) + ((u64)first << PAGE_SHIFT);
	int err = ib_umem_odp_map_dma_and_lock(odp, at, (u64)count << PAGE_SHIFT, write ? HMM_PFN_WRITE : 0, fault);

	if (err < 0)
		return err;
	for (; count; first++, count--) {
		unsigned long pfn = odp->map.pfn_list[first];

		if (pfn & HMM_PFN_VALID)
			usb4_op_page_here(odp->private, first, hmm_pfn_to_page(pfn), pfn & HMM_PFN_WRITE);
	}
	mutex_unlock(&odp->umem_mutex);
	return 0;
}

void usb4_paged_release(struct ib_umem_odp *odp)
{
	mutex_lock(&odp->umem_mutex);
	usb4_paged_withdraw(odp, ib_umem_start(odp), ib_umem_end(odp));
	odp->private = NULL;
	mutex_unlock(&odp->umem_mutex);
	ib_umem_odp_release(odp);
}

bool usb4_paged_possible(void) { return true; }

#else

struct ib_umem_odp *usb4_paged_get(struct ib_device *ib, u64 start, u64 length, int access, long *err)
{
	*err = -EOPNOTSUPP;
	return NULL;
}

size_t usb4_paged_count(struct ib_umem_odp *odp) { return 0; }
void usb4_paged_own(struct ib_umem_odp *odp, void *owner) {}
int usb4_paged_bring(struct ib_umem_odp *odp, size_t first, size_t count, bool write, bool fault) { return -EFAULT; }
void usb4_paged_release(struct ib_umem_odp *odp) {}
bool usb4_paged_possible(void) { return false; }

#endif

static struct workqueue_struct *usb4_paging;

int usb4_paging_start(void)
{
	usb4_paging = alloc_workqueue("usb4_paging", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return usb4_paging ? 0 : -ENOMEM;
}

void usb4_paging_stop(void) { destroy_workqueue(usb4_paging); }
struct workqueue_struct *usb4_paging_queue(void) { return usb4_paging; }
