/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of queue pairs: /sys/kernel/tracing/events/usb4_rdma. Each says the device and the queue pair. Most say
 * the PSN of the next request, the PSN expected of the peer, and one number of their own.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM usb4_rdma

#if !defined(USB4_RDMA_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define USB4_RDMA_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(qp_state,
	TP_PROTO(const char *dev, u32 qpn, u32 from, u32 to),
	TP_ARGS(dev, qpn, from, to),
	TP_STRUCT__entry(__string(dev, dev) __field(u32, qpn) __field(u32, from) __field(u32, to)),
	TP_fast_assign(
		__assign_str(dev);
		__entry->qpn = qpn;
		__entry->from = from;
		__entry->to = to;
	),
	TP_printk("dev=%s qpn=0x%06x from=%u to=%u", __get_str(dev), __entry->qpn, __entry->from, __entry->to)
);

DECLARE_EVENT_CLASS(qp_event,
	TP_PROTO(const char *dev, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what),
	TP_ARGS(dev, qpn, sq_psn, rq_psn, what),
	TP_STRUCT__entry(__string(dev, dev) __field(u32, qpn) __field(u32, sq_psn) __field(u32, rq_psn)
			 __field(u32, what)),
	TP_fast_assign(
		__assign_str(dev);
		__entry->qpn = qpn;
		__entry->sq_psn = sq_psn;
		__entry->rq_psn = rq_psn;
		__entry->what = what;
	),
	TP_printk("dev=%s qpn=0x%06x sq_psn=%u rq_psn=%u what=%u", __get_str(dev), __entry->qpn, __entry->sq_psn,
		  __entry->rq_psn, __entry->what)
);

/* The requester goes back; what: how often it has. */
DEFINE_EVENT(qp_event, qp_retry, TP_PROTO(const char *dev, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what),
	TP_ARGS(dev, qpn, sq_psn, rq_psn, what));
/* No acknowledgement in time; what: how often there was none. */
DEFINE_EVENT(qp_event, qp_timeout, TP_PROTO(const char *dev, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what),
	TP_ARGS(dev, qpn, sq_psn, rq_psn, what));
/* what: 1 sequence, 2 not ready, 3 error; 16 added: the peer's NAK to us. */
DEFINE_EVENT(qp_event, qp_nak, TP_PROTO(const char *dev, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what),
	TP_ARGS(dev, qpn, sq_psn, rq_psn, what));
/* A packet was dropped without an answer; what: how many were. */
DEFINE_EVENT(qp_event, qp_drop, TP_PROTO(const char *dev, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what),
	TP_ARGS(dev, qpn, sq_psn, rq_psn, what));
/* An asynchronous event; what: its ib_event_type. */
DEFINE_EVENT(qp_event, qp_error, TP_PROTO(const char *dev, u32 qpn, u32 sq_psn, u32 rq_psn, u32 what),
	TP_ARGS(dev, qpn, sq_psn, rq_psn, what));

/*
 * A packet of RoCEv2, or a run of them, that a queue pair sends (out=1) or has got from its peer. by: 0 a packet, 1 a run
 * in a datagram, 2 a train on the cable, which has neither IP nor UDP header. head: the transport headers of the first
 * packet, from the BTH on. bytes: the payload of all packets, of which `window` go by a window. sport: UDP source port, 0
 * if it is not known.
 */
TRACE_EVENT(qp_packet,
	TP_PROTO(const char *dev, const struct usb4_packet *packet),
	TP_ARGS(dev, packet),
	TP_STRUCT__entry(__string(dev, dev) __field(u32, qpn) __field(u32, bytes) __field(u32, window)
			 __field(u16, packets) __field(u16, mtu) __field(u16, sport) __field(u8, by) __field(u8, out)
			 __array(u8, src, 16) __array(u8, dst, 16) __dynamic_array(u8, head, packet->head_len)),
	TP_fast_assign(
		__assign_str(dev);
		__entry->qpn = packet->qpn;
		__entry->bytes = packet->bytes;
		__entry->window = packet->window;
		__entry->packets = packet->packets;
		__entry->mtu = packet->mtu;
		__entry->sport = packet->sport;
		__entry->by = packet->by;
		__entry->out = packet->out;
		memcpy(__entry->src, packet->src, sizeof(packet->src));
		memcpy(__entry->dst, packet->dst, sizeof(packet->dst));
		memcpy(__get_dynamic_array(head), packet->head, packet->head_len);
	),
	TP_printk("dev=%s qpn=0x%06x out=%u by=%u packets=%u mtu=%u bytes=%u window=%u sport=%u src=%s dst=%s head=%s",
		  __get_str(dev), __entry->qpn, __entry->out, __entry->by, __entry->packets, __entry->mtu,
		  __entry->bytes, __entry->window, __entry->sport, __print_hex_str(__entry->src, 16),
		  __print_hex_str(__entry->dst, 16),
		  __print_hex_str(__get_dynamic_array(head), __get_dynamic_array_len(head)))
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE usb4_rdma_trace
#include <trace/define_trace.h>
