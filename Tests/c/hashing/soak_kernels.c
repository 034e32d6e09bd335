/* Every kernel against the portable one, on random batches of random chains.
 *
 *   soak_kernels [INPUTS [SEED]]
 *
 * An input is one chain with its blocks, extra keys and place in a batch. */
#include <time.h>

#include "model.h"

enum { JOBS_MAX = 5, TOKENS_MAX = 1200, EXTRA_MAX = 3, EXTRA_BYTES_MAX = 2200 };

static struct input {
    ch_algorithm algorithm;
    size_t block_size;
    uint8_t parent[32];
    uint32_t tokens[TOKENS_MAX];
    ch_bytes extra_keys[EXTRA_MAX];
    ch_job job;
    ch_chain chain;
} inputs[JOBS_MAX];

static uint8_t extra[EXTRA_MAX][EXTRA_BYTES_MAX];

static void make_input(struct input *input)
{
    input->algorithm = random_below(2) ? CH_SHA256_CBOR : random_below(ALGORITHM_COUNT);
    input->block_size = 1 + random_below(random_below(3) ? 20 : random_below(3) ? 80 : 450);
    size_t token_count = random_below((uint32_t)(5 * input->block_size));
    token_count = token_count < TOKENS_MAX ? token_count : TOKENS_MAX;
    for (size_t i = 0; i < sizeof input->parent / 8; i++) {
        random_below(1);
        memcpy(input->parent + 8 * i, &random_state, 8);
    }
    for (size_t i = 0; i < token_count; i++)
        input->tokens[i] = random_token();
    size_t extra_count = input->algorithm == CH_APPROXIMATE || random_below(2)
                             ? 0
                             : random_below(EXTRA_MAX + 1);
    for (size_t i = 0; i < extra_count; i++) {
        size_t most = random_below(16) ? 70 : EXTRA_BYTES_MAX;
        input->extra_keys[i] = (ch_bytes){random_below(4) ? extra[i] : NULL, random_below(most)};
    }
    input->job = (ch_job){.chain = &input->chain,
                          .tokens = input->tokens,
                          .token_count = token_count,
                          .first_extra_keys = input->extra_keys,
                          .first_extra_key_count = extra_count};
    if (extra_count > 0 && random_below(2))
        input->job.extra_keys = input->extra_keys[0];
}

static void hash_all(const char *kernel, size_t count, uint8_t keys[][TOKENS_MAX * 32])
{
    ch_job jobs[JOBS_MAX];
    CHECK(ch_kernel_select(kernel) == CH_OK, "%s", kernel);
    for (size_t i = 0; i < count; i++) {
        CHECK(ch_chain_init(&inputs[i].chain, inputs[i].algorithm, inputs[i].parent,
                            inputs[i].block_size) == CH_OK,
              "init");
        jobs[i] = inputs[i].job;
        jobs[i].keys_p = keys[i];
    }
    ch_hash(jobs, count);
}

int main(int argc, char **argv)
{
    static uint8_t expected[JOBS_MAX][TOKENS_MAX * 32], keys[JOBS_MAX][TOKENS_MAX * 32];
    uint64_t input_count = argc > 1 ? strtoull(argv[1], NULL, 0) : 100000;
    random_state = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
    printf("%llu inputs, seed %llu, kernels:", (unsigned long long)input_count,
           (unsigned long long)random_state);
    for (size_t i = 0; i < KERNEL_COUNT; i++)
        if (ch_kernel_select(kernel_names[i]) == CH_OK)
            printf(" %s", kernel_names[i]);
    puts("");
    fill_random(extra, sizeof extra);

    uint64_t block_count = 0;
    for (uint64_t done = 0; done < input_count;) {
        size_t count = 1 + random_below(JOBS_MAX);
        for (size_t i = 0; i < count; i++)
            make_input(&inputs[i]);
        hash_all("portable", count, expected);
        for (size_t kernel = 1; kernel < KERNEL_COUNT; kernel++) {
            if (ch_kernel_select(kernel_names[kernel]) != CH_OK)
                continue;
            hash_all(kernel_names[kernel], count, keys);
            for (size_t i = 0; i < count; i++) {
                size_t blocks = inputs[i].job.token_count / inputs[i].block_size;
                size_t bytes = blocks * ch_key_bytes(inputs[i].algorithm);
                CHECK(memcmp(keys[i], expected[i], bytes) == 0,
                      "kernel %s, %s, block size %zu, %zu tokens, input %llu",
                      kernel_names[kernel], ch_algorithm_name(inputs[i].algorithm),
                      inputs[i].block_size, inputs[i].job.token_count,
                      (unsigned long long)done + i);
            }
        }
        for (size_t i = 0; i < count; i++)
            block_count += inputs[i].job.token_count / inputs[i].block_size;
        done += count;
    }
    printf("%llu blocks, no difference\n", (unsigned long long)block_count);
}
