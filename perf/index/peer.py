"""Dynamo's radix tree, one round per line on standard input: python peer.py BLOCKS ENGINES

Prints one JSON object per round: CPU microseconds per block of a 512-block event, per 1-block
event and per lookup, the JSON and the binding included, and bytes of memory per entry.
"""

import json
import random
import resource
import sys

from dynamo._core import RadixTree

PROMPT_BLOCKS = 512
GROUP = 16
MASK = 2**64 - 1


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def prompt(number):
    half = PROMPT_BLOCKS // 2
    shared = [(number // GROUP * 1_000_003 + j) * 0x9E3779B97F4A7C15 & MASK for j in range(half)]
    return shared + [((number + 1) * 7_000_003 + j) * 0xC2B2AE3D27D4EB4F & MASK
                     for j in range(half)]


def event(number, parent, hashes):
    blocks = [{"block_hash": value, "tokens_hash": value} for value in hashes]
    stored = {"parent_hash": parent, "blocks": blocks}
    return json.dumps({"event_id": number, "data": {"stored": stored}, "dp_rank": 0}).encode()


def main():
    block_count, engine_count = int(sys.argv[1]), int(sys.argv[2])
    prompts = [prompt(number) for number in range(block_count // PROMPT_BLOCKS)]
    events = [event(number, None, hashes) for number, hashes in enumerate(prompts)]
    small = [event(10**6 + k, prompts[k % len(prompts)][-1], [k * 11 + 5]) for k in range(5000)]
    random.seed(1)
    for _ in sys.stdin:
        before = resident()
        tree = RadixTree()
        start = cpu()
        for number, payload in enumerate(events):
            tree.apply_event(number % engine_count, payload)
        tree.find_matches(prompts[0])  # events are applied by a thread: wait for it
        applied = cpu() - start
        memory = resident() - before
        start = cpu()
        for number, payload in enumerate(small):
            tree.apply_event(number % len(prompts) % engine_count, payload)
        tree.find_matches([1])
        small_applied = cpu() - start
        start = cpu()
        for _ in range(300):
            tree.find_matches(random.choice(prompts)).scores
        looked_up = cpu() - start
        entries = len(prompts) * PROMPT_BLOCKS
        print(json.dumps({"apply": applied / entries, "small": small_applied / len(small),
                          "lookup": looked_up / 300, "memory": memory / entries}), flush=True)
        del tree


main()
