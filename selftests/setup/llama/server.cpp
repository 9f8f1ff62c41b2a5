// SPDX-License-Identifier: GPL-2.0 OR MIT
// llama-server ADDRESS:PORT: this host's processor for llama.cpp's RPC backend, what its own rpc-server is; by RDMA with
// clients that offer it, where GGML_RPC_NO_RDMA is not set.
#include "ggml-rpc.h"
#include <cstdio>

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: llama-server ADDRESS:PORT\n");
		return 2;
	}
	setvbuf(stdout, nullptr, _IOLBF, 0);
	ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	ggml_backend_rpc_start_server(argv[1], nullptr, 1, 1, &device);
	return 1; // it returns where it cannot serve
}
