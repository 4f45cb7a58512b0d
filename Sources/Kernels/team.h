// Threads that go through many short stages together: one loop of the caller's instead of one a stage, and what memory has
// to bring next is asked for while a thread waits.
#pragma once
#include <sched.h>
#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "run.h"

namespace nt {

class Team {
  public:
    /// One thread's view of the team.
    class Member {
      public:
        Member(Team &team, int64_t begin, int64_t end) : team_(team), begin_(begin), end_(end) {}

        /// body(begin, end) on ranges of `count` pieces: this member's part of most of them, then single ones of the rest
        /// while there are any, so that a member whose processor or memory is slower has fewer. Once between two meetings.
        template <class Body> void share(int64_t count, Body &&body) {
            const int64_t fixed = fixed_pieces(count);
            const auto [begin, end] = part(fixed);
            if (begin < end) body(begin, end);
            for (;;) {
                const int64_t i = fixed + team_.claimed_.fetch_add(1, std::memory_order_relaxed);
                if (i >= count) return;
                body(i, i + 1);
            }
        }

        /// The first piece that is this member's from the start.
        int64_t first_piece(int64_t count) const { return part(fixed_pieces(count)).first; }

        /// What this member reads after a meeting; of it the first kForeseen bytes are asked for during waits.
        void foresee(const void *at, int64_t bytes) {
            next_ = static_cast<const char *>(at);
            foreseen_ = next_ + std::min(bytes, kForeseen);
        }

        /// Waits until every member is here. The last one to come does `work` before any goes on.
        template <class Work> void meet(Work &&work) {
            const int64_t weight = end_ - begin_, meeting = ++meetings_;
            if (team_.arrived_.fetch_add(weight, std::memory_order_acq_rel) + weight == meeting * kShares) {
                team_.claimed_.store(0, std::memory_order_relaxed);
                work();
                team_.open_.store(meeting, std::memory_order_release);
                team_.open_.notify_all();
            } else {
                wait(meeting);
            }
        }

      private:
        /// The parts of the members cover `count` pieces, in order.
        std::pair<int64_t, int64_t> part(int64_t count) const {
            return {count * begin_ / kShares, count * end_ / kShares};
        }

        /// A twelfth is left for whoever is early: single pieces are read less fast than long stretches.
        static int64_t fixed_pieces(int64_t count) { return count - count / 12; }

        void wait(int64_t meeting) {
            for (int turn = 0; turn < kTurns; ++turn) {
                if (team_.open_.load(std::memory_order_acquire) == meeting) return;
                if (next_ < foreseen_) {
                    for (int line = 0; line < 4; ++line, next_ += 64) __builtin_prefetch(next_, 0, 2);
                } else {
                    pause();
                }
            }
            // Somebody else has the processor of a member: this one is lent to whoever can use it. It sleeps only when that
            // takes long, since waking a sleeper takes a virtual machine longer than most waits.
            for (int turn = 0; turn < kTurns; ++turn) {
                if (team_.open_.load(std::memory_order_acquire) == meeting) return;
                sched_yield();
            }
            while (team_.open_.load(std::memory_order_acquire) != meeting) team_.open_.wait(meeting - 1);
        }

        static void pause() {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }

        Team &team_;
        const int64_t begin_, end_;
        int64_t meetings_ = 0;
        const char *next_ = nullptr, *foreseen_ = nullptr;
    };

    /// body(member) on the threads of `parallel`, which run their ranges at the same time or all as one.
    template <class Body> static void run(nt_parallel parallel, Body &&body) {
        Team team;
        nt::run(parallel, kShares, 1, [&](int64_t begin, int64_t end) {
            Member member(team, begin, end);
            body(member);
        });
    }

  private:
    /// Shares of all work, at least as many as threads can help; a meeting is complete when the shares of those present
    /// make up the whole, so nobody has to know how many members there are.
    static constexpr int64_t kShares = 256;
    /// Half of the smallest second-level cache of processors with AVX2.
    static constexpr int64_t kForeseen = 128 << 10;
    /// Some ten microseconds, as OpenMP's threads wait between loops (EngineProgram.swift).
    static constexpr int kTurns = 1000;

    alignas(64) std::atomic<int64_t> arrived_{0};
    /// Single pieces that somebody has taken since the last meeting.
    alignas(64) std::atomic<int64_t> claimed_{0};
    /// The last meeting that is over; on a line of its own, since everybody waiting reads it.
    alignas(64) std::atomic<int64_t> open_{0};
};

}  // namespace nt
