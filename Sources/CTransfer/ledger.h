// When the owner of a region took which block back: one number per block, behind the blocks in the
// pool's memfd, where peers of this host read it too. Memory that the caller registered has a memfd
// with nothing else in it.
//
// Why there is one. A peer that falls silent may be dead, cut off or only standing still, and no
// clock tells which. Whatever it was about to do, it does when it comes back: time alone fences no
// memory. A check of a lease and the copy behind it are two steps, and a thread can be stopped
// between them for as long as you like. So a block is safe to reuse not after a while, but when its
// owner has taken it back by ct_pool_fence, and this holds:
//
//   epoch      counts the owner's fences. A transfer names the epoch in which it was given its
//              blocks; a block may be touched while renewed[block] <= that epoch.
//   reading    checks before the copy and again behind it. A fence stores renewed[] before the
//              owner changes a byte, so a reader that saw a changed byte sees the number as well,
//              and reports CT_ESTALE: torn or foreign bytes are never a success. Over memfd and
//              CMA the reader looks itself; over TCP the owner's thread looks behind the last byte
//              that the kernel took, and says so in the frame that ends the answer.
//   writing    over memfd and CMA happens under a shared lock of the kernel on byte `epoch` of the
//              file, taken on a file description that only this peer has, and renewed[] is looked
//              at once the lock is held. The owner stores renewed[] and then looks for locks of
//              older epochs. One of the two comes second and sees the other. A writer that is
//              stopped holds its lock still; one that is killed loses it when the last of its
//              descriptors and mappings of the file is gone, so after its last store and its last
//              system call.
//   writing    over TCP is done by the owner's own progress thread. The fence sends that thread a
//              command. When it is carried out, every write in hand whose blocks were taken has
//              been told to throw its bytes away, and every later one is refused by its epoch,
//              however late it comes. Where that thread was stopped is of no importance: the
//              command is behind it.
//
// A block that was fenced in epoch e is nobody else's once ct_pool_settled is e or more.
#ifndef CT_LEDGER_H
#define CT_LEDGER_H

#include <stdatomic.h>

#include "blocks.h"
#include "ctransfer.h"

#pragma GCC visibility push(hidden)

typedef struct ct_ledger {
    _Atomic uint64_t epoch;
    _Atomic uint64_t is_withdrawn;  // every block has been taken back, for good
    _Atomic uint64_t renewed[];  // by block; the epoch that its last fence began
} ct_ledger;

// Bytes of the file that holds a region's ledger, behind its blocks if it has them too; 0 if they
// do not fit.
uint64_t ct_ledger_file_bytes(const ct_region *region, int has_blocks);
// The ledger in such a file, mapped.
ct_ledger *ct_ledger_in(void *file, const ct_region *region, int has_blocks);

// Takes blocks back and returns the new epoch. One caller at a time.
uint64_t ct_ledger_renew(ct_ledger *ledger, const uint32_t *blocks, size_t block_count);
// Takes every block back from whatever epoch, those to come too, and returns the new epoch.
uint64_t ct_ledger_withdraw(ct_ledger *ledger);

// Whether none of the blocks [first, end) of a view has been taken back since `epoch`. The view's
// ranges have been checked. Ordered behind every load and before every store of the caller that
// stands before or behind it.
int ct_ledger_holds(
    const ct_ledger *ledger, const ct_region *region, const ct_view *view, uint32_t first,
    uint32_t end, uint64_t epoch);

// Lets a writer of the same host in, and tells it which lock to give back.
ct_status ct_ledger_enter(const ct_ledger *ledger, int fd, uint64_t *lock_p);
void ct_ledger_leave(int fd, uint64_t lock);
// The epoch of the oldest writer that is in, or `epoch` if none is older than that. `fd` is of
// another file description than any writer's.
uint64_t ct_ledger_oldest_writer(int fd, uint64_t epoch);

#pragma GCC visibility pop

#endif
