// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * mpi SECONDS all|messages: the ways to move data that programs use most, every element checked: all-to-all, sum over
 * all ranks, and, with `all`, Put and Get in a window, by fence and by lock; from 8 bytes to 256 KiB for each pair of
 * ranks. Over and over for SECONDS. For Open MPI and MPICH alike. Rank 0 prints one JSON object: ranks, rounds, the
 * microseconds of a call of each kind at 32 KiB (means), and how many elements were wrong anywhere.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 256 << 10, TOLD = 32 << 10 };

static int rank, ranks;
static long long wrong;

/* What a rank gives to another in a round, in place n. */
static long long value(int from, int to, int round, int n)
{
	return ((from * 131LL + to) * 1009 + round) * 65537 + n;
}

static void expect(long long got, long long wanted)
{
	wrong += got != wanted;
}

static double all_to_all(long long *out, long long *in, int count, int round)
{
	double begun;

	for (int to = 0; to < ranks; to++)
		for (int n = 0; n < count; n++)
			out[to * count + n] = value(rank, to, round, n);
	begun = MPI_Wtime();
	MPI_Alltoall(out, count, MPI_LONG_LONG, in, count, MPI_LONG_LONG, MPI_COMM_WORLD);
	begun = MPI_Wtime() - begun;
	for (int from = 0; from < ranks; from++)
		for (int n = 0; n < count; n++)
			expect(in[from * count + n], value(from, rank, round, n));
	return begun;
}

static double sum(long long *out, long long *in, int count, int round)
{
	double begun;

	for (int n = 0; n < count; n++)
		out[n] = value(rank, 0, round, n);
	begun = MPI_Wtime();
	MPI_Allreduce(out, in, count, MPI_LONG_LONG, MPI_SUM, MPI_COMM_WORLD);
	begun = MPI_Wtime() - begun;
	for (int n = 0; n < count; n++) {
		long long all = 0;

		for (int from = 0; from < ranks; from++)
			all += value(from, 0, round, n);
		expect(in[n], all);
	}
	return begun;
}

/* A window has a part for each rank, which only that one writes. */
static double put(MPI_Win window, long long *memory, long long *out, int count, int round)
{
	double begun;

	for (int to = 0; to < ranks; to++)
		for (int n = 0; n < count; n++)
			out[to * count + n] = value(rank, to, round, n);
	begun = MPI_Wtime();
	MPI_Win_fence(0, window);
	for (int to = 0; to < ranks; to++)
		MPI_Put(out + to * count, count, MPI_LONG_LONG, to, (MPI_Aint)rank * count, count, MPI_LONG_LONG,
			window);
	MPI_Win_fence(0, window);
	begun = MPI_Wtime() - begun;
	for (int from = 0; from < ranks; from++)
		for (int n = 0; n < count; n++)
			expect(memory[from * count + n], value(from, rank, round, n));
	return begun;
}

/* What the Puts have left in all others' windows. */
static double get(MPI_Win window, long long *in, int count, int round)
{
	double begun;

	MPI_Barrier(MPI_COMM_WORLD);
	begun = MPI_Wtime();
	for (int of = 0; of < ranks; of++) {
		MPI_Win_lock(MPI_LOCK_SHARED, of, 0, window);
		MPI_Get(in + of * count, count, MPI_LONG_LONG, of, (MPI_Aint)rank * count, count, MPI_LONG_LONG,
			window);
		MPI_Win_unlock(of, window);
	}
	begun = MPI_Wtime() - begun;
	for (int of = 0; of < ranks; of++)
		for (int n = 0; n < count; n++)
			expect(in[of * count + n], value(rank, of, round, n));
	MPI_Barrier(MPI_COMM_WORLD);
	return begun;
}

int main(int argc, char **argv)
{
	double seconds, begun, us[4] = { 0 }, slowest[4];
	int windows, rounds = 0, more = 1;
	long long *out, *in, *memory, all;
	MPI_Win window;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	if (argc != 3) {
		fprintf(stderr, "usage: mpi SECONDS all|messages\n");
		MPI_Abort(MPI_COMM_WORLD, 2);
	}
	seconds = atof(argv[1]);
	windows = !strcmp(argv[2], "all");
	out = malloc((size_t)ranks * LONGEST);
	in = malloc((size_t)ranks * LONGEST);
	if (windows)
		MPI_Win_allocate((MPI_Aint)ranks * LONGEST, sizeof(long long), MPI_INFO_NULL, MPI_COMM_WORLD, &memory,
				 &window);
	begun = MPI_Wtime();
	while (more) {
		for (int bytes = 8; bytes <= LONGEST; bytes *= 8) {
			int count = bytes / sizeof(long long);
			double times[4] = { all_to_all(out, in, count, rounds), sum(out, in, count, rounds) };

			if (windows) {
				times[2] = put(window, memory, out, count, rounds);
				times[3] = get(window, in, count, rounds);
			}
			for (int n = 0; bytes == TOLD && n < 4; n++)
				us[n] += times[n] * 1e6;
		}
		rounds++;
		more = MPI_Wtime() - begun < seconds;
		MPI_Bcast(&more, 1, MPI_INT, 0, MPI_COMM_WORLD);
	}
	MPI_Reduce(us, slowest, 4, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
	MPI_Reduce(&wrong, &all, 1, MPI_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
	if (!rank)
		printf("{\"ranks\": %d, \"rounds\": %d, \"wrong\": %lld, \"alltoall_us\": %.0f, \"allreduce_us\": %.0f, "
		       "\"put_us\": %.0f, \"get_us\": %.0f}\n", ranks, rounds, all, slowest[0] / rounds,
		       slowest[1] / rounds, slowest[2] / rounds, slowest[3] / rounds);
	if (windows)
		MPI_Win_free(&window);
	MPI_Finalize();
	return wrong != 0;
}
