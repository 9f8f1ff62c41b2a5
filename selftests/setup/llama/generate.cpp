// SPDX-License-Identifier: GPL-2.0 OR MIT
// llama-generate MODEL TOKENS [LAYERS ADDRESS:PORT]: the likeliest token after token, batch 1, from a fixed beginning.
// With a server, the last LAYERS layers are there and the rest here; more layers than there are: the output too.
// Prints {"tokens": [...], "seconds": ...}, the time being that of the tokens after the first.
#include "ggml-rpc.h"
#include "llama.h"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int argc, char **argv)
{
	if (argc != 3 && argc != 5) {
		fprintf(stderr, "usage: llama-generate MODEL TOKENS [LAYERS ADDRESS:PORT]\n");
		return 2;
	}
	llama_backend_init();
	llama_model_params how = llama_model_default_params();
	how.n_gpu_layers = 0;
	if (argc == 5) {
		ggml_backend_reg_t servers = ggml_backend_rpc_add_server(argv[4]);
		if (!servers) {
			fprintf(stderr, "no server at %s\n", argv[4]);
			return 1;
		}
		ggml_backend_register(servers);
		how.n_gpu_layers = atoi(argv[3]);
	}
	llama_model *model = llama_model_load_from_file(argv[1], how);
	llama_context_params parameters = llama_context_default_params();
	parameters.n_ctx = 512;
	parameters.n_threads = parameters.n_threads_batch = 1;
	llama_context *context = model ? llama_init_from_model(model, parameters) : nullptr;
	if (!context)
		return 1;
	const int words = llama_vocab_n_tokens(llama_model_get_vocab(model));
	std::vector<llama_token> prompt = {1, 2, 3, 5, 7, 11, 13, 17}, said;
	using clock = std::chrono::steady_clock;
	clock::time_point begun;
	const int wanted = atoi(argv[2]);
	while ((int)said.size() < wanted) {
		llama_batch batch = said.empty() ? llama_batch_get_one(prompt.data(), prompt.size())
						 : llama_batch_get_one(&said.back(), 1);
		if (llama_decode(context, batch)) {
			fprintf(stderr, "no token %zu\n", said.size());
			return 1;
		}
		const float *logits = llama_get_logits_ith(context, -1);
		said.push_back(std::max_element(logits, logits + words) - logits);
		if (said.size() == 1)
			begun = clock::now();
	}
	const double seconds = std::chrono::duration<double>(clock::now() - begun).count();
	printf("{\"tokens\": [");
	for (size_t n = 0; n < said.size(); n++)
		printf("%s%d", n ? ", " : "", said[n]);
	printf("], \"seconds\": %.6f}\n", seconds);
	llama_free(context);
	llama_model_free(model);
	return 0;
}
