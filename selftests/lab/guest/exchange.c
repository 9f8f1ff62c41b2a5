// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * exchange serve|call ADDRESS rdma|tcp BYTES ROUNDS
 *
 * What tensor-parallel programs do after each layer: both ends give each other BYTES and wait for the other's. By RDMA:
 * one RC queue pair, WRITE_WITH_IMM into the next of three windows of the peer, the immediate data being the round's
 * number. By TCP: the same bytes over one connection. Every byte of every round is compared, outside of what is timed.
 * Waits by polling.
 *
 * Prints one JSON object: rounds, bytes wrong, microseconds of a round (least, median, p99, most). An end whose peer is
 * gone says so instead: how it was told, microseconds after the last round, by rdma_cm's event and by a completion.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WINDOWS = 3, MOST = 64 << 10, PORT = 18590, SOURCES = 2 * MOST, GUARD = 0xa5 };
/* Microseconds without the peer's bytes after which this end gives up, and for which it goes on listening when told. */
static const double PATIENCE = 60e6, AFTERMATH = 40e6;

static unsigned char *sources, *windows;
static size_t bytes;
static int serving;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Where the bytes of a round begin: another place each round, and each end's are its own. */
static unsigned char *source(unsigned int round, int server)
{
	return sources + (round * 64 + (server ? MOST / 2 : 0)) % (SOURCES - MOST);
}

static unsigned char *window(unsigned int round)
{
	return windows + round % WINDOWS * bytes;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static size_t wrong_bytes(unsigned int round)
{
	unsigned char *got = window(round), *want = source(round, !serving);
	size_t wrong = 0;

	if (memcmp(got, want, bytes))
		for (size_t n = 0; n < bytes; n++)
			wrong += got[n] != want[n];
	memset(got, GUARD, bytes);
	return wrong;
}

/* One way to exchange: begins a round, and waits for the peer's bytes. */
struct way {
	void (*give)(unsigned int round);
	void (*take)(unsigned int round);
	void (*done)(void);
};

/* RDMA */

static struct rdma_event_channel *channel;
static struct rdma_cm_id *id;
static struct ibv_cq *cq;
static struct ibv_mr *source_mr, *window_mr;
static struct { unsigned long long address; unsigned int key; } __attribute__((packed)) mine, theirs;
static unsigned int given, arrived;
static double last;

static double told_by_cm, told_by_wc;
static int unreachable;
static int what_cm, what_wc;

static int nonblocking(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* What rdma_cm says, if anything. */
static void listen_to_cm(void)
{
	struct rdma_cm_event *event;

	if (rdma_get_cm_event(channel, &event))
		return;
	if (event->event == RDMA_CM_EVENT_UNREACHABLE) {
		/*
		 * The neighbour's entry has changed, as it does when the carrier goes: of the connection, which lives,
		 * this says nothing.
		 */
		unreachable++;
	} else if (!told_by_cm && event->event != RDMA_CM_EVENT_TIMEWAIT_EXIT) {
		told_by_cm = now();
		what_cm = event->event;
	}
	rdma_ack_cm_event(event);
}

static void receive(void)
{
	struct ibv_recv_wr wr = { .num_sge = 0 }, *bad;

	if (ibv_post_recv(id->qp, &wr, &bad))
		die("ibv_post_recv");
}

static void completions(void)
{
	struct ibv_wc wc[8];
	int count = ibv_poll_cq(cq, 8, wc);

	for (int n = 0; n < count; n++) {
		if (wc[n].status) {
			if (!told_by_wc) {
				told_by_wc = now();
				what_wc = wc[n].status;
			}
		} else if (wc[n].opcode & IBV_WC_RECV) {
			if (ntohl(wc[n].imm_data) != arrived || wc[n].byte_len != bytes) {
				fprintf(stderr, "round %u: number %u, %u bytes\n", arrived, ntohl(wc[n].imm_data),
					wc[n].byte_len);
				exit(1);
			}
			arrived++;
			receive();
		} else {
			given++;
		}
	}
}

static void rdma_give(unsigned int round)
{
	struct ibv_sge sge = { (uintptr_t)source(round, serving), bytes, source_mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_RDMA_WRITE_WITH_IMM, .send_flags = IBV_SEND_SIGNALED,
		.imm_data = htonl(round),
		.wr.rdma = { theirs.address + round % WINDOWS * bytes, theirs.key },
	}, *bad;

	if (ibv_post_send(id->qp, &wr, &bad))
		die("ibv_post_send");
}

/*
 * The peer is gone. Listens on for what else tells, as programs have one or the other; so that there is a completion
 * also where the last WRITE had been acknowledged, the next is posted.
 */
static void told(void)
{
	double until = now() + AFTERMATH;

	if (!told_by_wc)
		rdma_give(arrived);
	while (now() < until && !(told_by_cm && told_by_wc)) {
		listen_to_cm();
		completions();
	}
	printf("{\"rounds\": %u, \"cm_event\": %d, \"cm_us\": %.0f, \"wc_status\": %d, \"wc_us\": %.0f}\n", arrived,
	       told_by_cm ? what_cm : -1, told_by_cm ? told_by_cm - last : -1, told_by_wc ? what_wc : -1,
	       told_by_wc ? told_by_wc - last : -1);
	exit(0);
}

static void rdma_take(unsigned int round)
{
	double since = now();

	for (unsigned int n = 1; arrived <= round; n++) {
		completions();
		if (n % 64 == 0)
			listen_to_cm();
		if (told_by_cm || told_by_wc) {
			/* A peer that has ended well has sent all that this round waits for. */
			completions();
			if (arrived <= round)
				told();
		}
		if (n % 4096 == 0 && now() - since > PATIENCE) {
			fprintf(stderr, "nothing of round %u in %.0f s\n", round, PATIENCE / 1e6);
			exit(1);
		}
	}
	last = now();
}

static void rdma_done(void)
{
	while (given < arrived && !told_by_wc)
		completions();
	rdma_disconnect(id);
}

static struct rdma_cm_event *expect(enum rdma_cm_event_type wanted)
{
	struct rdma_cm_event *event;

	if (rdma_get_cm_event(channel, &event))
		die("rdma_get_cm_event");
	if (event->event != wanted) {
		fprintf(stderr, "%s (%d), not %s\n", rdma_event_str(event->event), event->status,
			rdma_event_str(wanted));
		exit(1);
	}
	return event;
}

static void prepare(void)
{
	struct ibv_qp_init_attr attr = { .qp_type = IBV_QPT_RC, .cap = { 8, 8, 1, 1, 0 } };

	cq = ibv_create_cq(id->verbs, 32, NULL, NULL, 0);
	attr.send_cq = attr.recv_cq = cq;
	if (!cq || rdma_create_qp(id, NULL, &attr))
		die("rdma_create_qp");
	source_mr = ibv_reg_mr(id->pd, sources, SOURCES, IBV_ACCESS_LOCAL_WRITE);
	window_mr = ibv_reg_mr(id->pd, windows, WINDOWS * bytes, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	if (!source_mr || !window_mr)
		die("ibv_reg_mr");
	mine.address = (uintptr_t)windows;
	mine.key = window_mr->rkey;
	for (int n = 0; n < 6; n++)
		receive();
}

static void rdma_meet(struct sockaddr_in *at)
{
	struct rdma_conn_param parameters = { .private_data = &mine, .private_data_len = sizeof(mine), .retry_count = 7,
					      .rnr_retry_count = 7 };
	struct rdma_cm_event *event;
	struct rdma_cm_id *listener;

	channel = rdma_create_event_channel();
	if (!channel || rdma_create_id(channel, &id, NULL, RDMA_PS_TCP))
		die("rdma_create_id");
	if (serving) {
		listener = id;
		if (rdma_bind_addr(listener, (struct sockaddr *)at) || rdma_listen(listener, 1))
			die("rdma_listen");
		event = expect(RDMA_CM_EVENT_CONNECT_REQUEST);
		id = event->id;
		memcpy(&theirs, event->param.conn.private_data, sizeof(theirs));
		prepare();
		if (rdma_accept(id, &parameters))
			die("rdma_accept");
		rdma_ack_cm_event(event);
		event = expect(RDMA_CM_EVENT_ESTABLISHED);
	} else {
		if (rdma_resolve_addr(id, NULL, (struct sockaddr *)at, 5000))
			die("rdma_resolve_addr");
		rdma_ack_cm_event(expect(RDMA_CM_EVENT_ADDR_RESOLVED));
		if (rdma_resolve_route(id, 5000))
			die("rdma_resolve_route");
		rdma_ack_cm_event(expect(RDMA_CM_EVENT_ROUTE_RESOLVED));
		prepare();
		if (rdma_connect(id, &parameters))
			die("rdma_connect");
		event = expect(RDMA_CM_EVENT_ESTABLISHED);
		memcpy(&theirs, event->param.conn.private_data, sizeof(theirs));
	}
	rdma_ack_cm_event(event);
	if (nonblocking(channel->fd))
		die("fcntl");
}

/* TCP */

static int line;

static void tcp_meet(struct sockaddr_in *at)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (serving) {
		if (bind(fd, (struct sockaddr *)at, sizeof(*at)) || listen(fd, 1))
			die("bind");
		line = accept(fd, NULL, NULL);
	} else {
		line = connect(fd, (struct sockaddr *)at, sizeof(*at)) ? -1 : fd;
	}
	if (line < 0)
		die("no connection");
	setsockopt(line, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void tcp_give(unsigned int round)
{
	unsigned char *from = source(round, serving);

	for (size_t n = 0; n < bytes;) {
		ssize_t more = send(line, from + n, bytes - n, MSG_NOSIGNAL);

		if (more <= 0)
			die("send");
		n += more;
	}
}

static void tcp_take(unsigned int round)
{
	double since = now();

	for (size_t n = 0; n < bytes;) {
		ssize_t more = recv(line, window(round) + n, bytes - n, MSG_DONTWAIT);

		if (more > 0)
			n += more;
		else if (!more || errno != EAGAIN)
			die("recv");
		else if (now() - since > PATIENCE)
			die("nothing comes");
	}
	last = now();
}

static void tcp_done(void)
{
}

int main(int argc, char **argv)
{
	static const struct way ways[] = { { rdma_give, rdma_take, rdma_done }, { tcp_give, tcp_take, tcp_done } };
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	const struct way *way;
	unsigned int rounds;
	double *times, begun;
	size_t wrong = 0;

	if (argc != 6 || !inet_aton(argv[2], &at.sin_addr) || (bytes = atoi(argv[4])) > MOST / 2) {
		fprintf(stderr, "usage: exchange serve|call ADDRESS rdma|tcp BYTES ROUNDS\n");
		return 2;
	}
	serving = !strcmp(argv[1], "serve");
	way = &ways[!strcmp(argv[3], "tcp")];
	rounds = atoi(argv[5]);
	times = calloc(rounds, sizeof(*times));
	sources = aligned_alloc(4096, SOURCES);
	windows = aligned_alloc(4096, (WINDOWS * bytes + 4095) / 4096 * 4096);
	if (!times || !sources || !windows)
		die("memory");
	srandom(15);
	for (size_t n = 0; n < SOURCES; n++)
		sources[n] = random();
	memset(windows, GUARD, WINDOWS * bytes);
	if (way == ways)
		rdma_meet(&at);
	else
		tcp_meet(&at);
	for (unsigned int round = 0; round < rounds; round++) {
		begun = now();
		way->give(round);
		way->take(round);
		times[round] = now() - begun;
		wrong += wrong_bytes(round);
	}
	way->done();
	qsort(times, rounds, sizeof(*times), by_size);
	printf("{\"rounds\": %u, \"wrong\": %zu, \"min\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f, "
	       "\"unreachable\": %d}\n", rounds, wrong, times[0], times[rounds / 2], times[(size_t)(rounds * 0.99)],
	       times[rounds - 1], unreachable);
	return 0;
}
