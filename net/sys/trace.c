// SPDX-License-Identifier: GPL-2.0
/* The tracepoints, and the way to them from Rust. */
#include "bindings.h"
#define CREATE_TRACE_POINTS
#include "usb4_rdma_trace.h"

bool usb4_trace_is_on(void)
{
	return trace_qp_state_enabled() || trace_qp_retry_enabled() || trace_qp_timeout_enabled() ||
	       trace_qp_nak_enabled() || trace_qp_drop_enabled() || trace_qp_error_enabled();
}

void usb4_trace_state(struct ib_device *ib, u32 qpn, u32 from, u32 to)
{
	trace_qp_state(dev_name(&ib->dev), qpn, from, to);
}

void usb4_trace_event(struct ib_device *ib, enum usb4_trace kind, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what)
{
	const char *dev = dev_name(&ib->dev);

	switch (kind) {
	case USB4_TRACE_RETRY:
		trace_qp_retry(dev, qpn, sq_psn, rq_psn, what);
		break;
	case USB4_TRACE_TIMEOUT:
		trace_qp_timeout(dev, qpn, sq_psn, rq_psn, what);
		break;
	case USB4_TRACE_NAK:
		trace_qp_nak(dev, qpn, sq_psn, rq_psn, what);
		break;
	case USB4_TRACE_DROP:
		trace_qp_drop(dev, qpn, sq_psn, rq_psn, what);
		break;
	case USB4_TRACE_ERROR:
		trace_qp_error(dev, qpn, sq_psn, rq_psn, what);
		break;
	}
}

bool usb4_trace_shows_packets(void)
{
	return trace_qp_packet_enabled();
}

void usb4_trace_packet(struct ib_device *ib, const struct usb4_packet *packet)
{
	trace_qp_packet(dev_name(&ib->dev), packet);
}
