// What the engine tells: its queue of events, and the descriptor that says when there are any.
#include <stdlib.h>
#include <unistd.h>

#include "engine.h"

// An eventfd of ours cannot fail but by being full, and then it is readable as wanted.
void ct_eventfd_raise(int fd) {
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof(one));
    (void)written;
}

void ct_eventfd_lower(int fd) {
    uint64_t count;
    ssize_t bytes = read(fd, &count, sizeof(count));
    (void)bytes;
}

void ct_engine_push_event_locked(ct_engine *engine, ct_event_node *node) {
    if (ct_link_is_empty(&engine->events)) {
        ct_eventfd_raise(engine->event_fd);
    }
    ct_link_append(&engine->events, &node->node);
}

void ct_events_free_locked(ct_link *events) {
    while (!ct_link_is_empty(events)) {
        ct_event_node *node = ct_container(ct_link_pop(events), ct_event_node, node);
        if (node->event.kind == CT_EVENT_TRANSFER) {
            ct_transfer_recycle_locked(ct_container(node, ct_transfer, result));
        } else {
            free(node->allocation);
        }
    }
}

void ct_engine_poll(ct_engine *engine, ct_event *events, size_t capacity, size_t *count_p) {
    size_t count = 0;
    pthread_mutex_lock(&engine->lock);
    ct_events_free_locked(&engine->polled);
    while (count < capacity && !ct_link_is_empty(&engine->events)) {
        ct_link *link = ct_link_pop(&engine->events);
        ct_event_node *node = ct_container(link, ct_event_node, node);
        if (node->event.kind == CT_EVENT_TRANSFER) {
            ct_transfer_polled_locked(ct_container(node, ct_transfer, result));
        } else if (node->event.kind == CT_EVENT_NOTIFICATION) {
            engine->notification_count--;
        }
        ct_link_append(&engine->polled, link);
        events[count++] = node->event;
    }
    if (ct_link_is_empty(&engine->events)) {
        ct_eventfd_lower(engine->event_fd);
    }
    pthread_mutex_unlock(&engine->lock);
    *count_p = count;
}
