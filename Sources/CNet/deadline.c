/* Deadlines of a loop: a binary heap over (due_ns, order). */
#include <stdlib.h>

#include "loop.h"

static bool is_before(const cn_deadline *one, const cn_deadline *other)
{
    if (one->due_ns != other->due_ns)
        return one->due_ns < other->due_ns;
    return one->order < other->order;
}

static void put(cn_loop *loop, size_t place, cn_deadline *deadline)
{
    loop->heap[place] = deadline;
    deadline->place = place;
}

static void sift_up(cn_loop *loop, size_t place, cn_deadline *deadline)
{
    while (place > 1 && is_before(deadline, loop->heap[place / 2])) {
        put(loop, place, loop->heap[place / 2]);
        place /= 2;
    }
    put(loop, place, deadline);
}

static void sift_down(cn_loop *loop, size_t place, cn_deadline *deadline)
{
    for (;;) {
        size_t child = place * 2;
        if (child > loop->heap_count)
            break;
        if (child < loop->heap_count && is_before(loop->heap[child + 1], loop->heap[child]))
            child++;
        if (!is_before(loop->heap[child], deadline))
            break;
        put(loop, place, loop->heap[child]);
        place = child;
    }
    put(loop, place, deadline);
}

bool cn_deadline_init(cn_loop *loop, cn_deadline *deadline, void (*fire)(cn_deadline *deadline))
{
    size_t needed = loop->deadline_count + 2;
    if (needed > loop->heap_capacity) {
        size_t capacity = loop->heap_capacity == 0 ? 64 : loop->heap_capacity * 2;
        cn_deadline **heap = realloc(loop->heap, capacity * sizeof *heap);
        if (heap == NULL)
            return false;
        loop->heap = heap;
        loop->heap_capacity = capacity;
    }
    loop->deadline_count++;
    *deadline = (cn_deadline){.fire = fire};
    return true;
}

void cn_deadline_fini(cn_loop *loop, cn_deadline *deadline)
{
    cn_deadline_clear(loop, deadline);
    loop->deadline_count--;
}

void cn_deadline_set(cn_loop *loop, cn_deadline *deadline, uint64_t due_ns)
{
    cn_deadline_clear(loop, deadline);
    deadline->due_ns = due_ns;
    deadline->order = loop->order++;
    loop->heap_count++;
    sift_up(loop, loop->heap_count, deadline);
}

void cn_deadline_clear(cn_loop *loop, cn_deadline *deadline)
{
    size_t place = deadline->place;
    if (place == 0)
        return;
    deadline->place = 0;
    cn_deadline *last = loop->heap[loop->heap_count];
    loop->heap_count--;
    if (last == deadline)
        return;
    if (place > 1 && is_before(last, loop->heap[place / 2]))
        sift_up(loop, place, last);
    else
        sift_down(loop, place, last);
}

void cn_deadlines_fire(cn_loop *loop)
{
    uint64_t now = uv_hrtime();
    while (loop->heap_count > 0 && loop->heap[1]->due_ns <= now) {
        cn_deadline *deadline = loop->heap[1];
        cn_deadline_clear(loop, deadline);
        deadline->fire(deadline);
    }
}
