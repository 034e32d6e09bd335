// A circular doubly linked list; nodes are embedded in what they list.
#ifndef CT_LIST_H
#define CT_LIST_H

#include <stddef.h>

typedef struct ct_link {
    struct ct_link *next;
    struct ct_link *previous;
} ct_link;

// The object that a node is a member of.
#define ct_container(node, type, member) ((type *)((char *)(node) - offsetof(type, member)))

// A list head with nothing in it, or a node that is in no list.
static inline void ct_link_init(ct_link *link) {
    link->next = link;
    link->previous = link;
}

// Whether a head has no nodes, or a node is in no list.
static inline int ct_link_is_empty(const ct_link *link) {
    return link->next == link;
}

static inline void ct_link_append(ct_link *head, ct_link *node) {
    node->previous = head->previous;
    node->next = head;
    head->previous->next = node;
    head->previous = node;
}

// Harmless for a node that is in no list.
static inline void ct_link_remove(ct_link *node) {
    node->previous->next = node->next;
    node->next->previous = node->previous;
    ct_link_init(node);
}

// Moves every node of `from` to the empty list `to`.
static inline void ct_link_take(ct_link *from, ct_link *to) {
    ct_link_init(to);
    if (ct_link_is_empty(from)) {
        return;
    }
    *to = *from;
    to->next->previous = to;
    to->previous->next = to;
    ct_link_init(from);
}

// Takes the first node out; the list is not empty.
static inline ct_link *ct_link_pop(ct_link *head) {
    ct_link *node = head->next;
    ct_link_remove(node);
    return node;
}

#endif
