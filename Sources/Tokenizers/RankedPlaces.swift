// Which pair of a long word is joined next.

/// Places by the rank of the pair that begins there: the lowest rank first, and of one rank the leftmost.
///
/// Grouping by rank instead of one heap of pairs keeps a word of millions of equal characters at a few sequential passes:
/// a rank's places are mostly noted from left to right.
struct RankedPlaces {
    private struct Group {
        /// In order; those before `taken` have been given out.
        var places: [Int32] = []
        var taken = 0
        /// Places that were noted after one to the right of them.
        var late = Heap<Int32>()
        /// Whether the rank is in `ranks`.
        var isWaiting = false

        mutating func append(_ place: Int32) {
            if let last = places.last, place < last { late.push(place) } else { places.append(place) }
        }

        mutating func removeFirst() -> Int32? {
            guard taken < places.count else { return late.pop() }
            if let first = late.first, first < places[taken] { return late.pop() }
            taken += 1
            return places[taken - 1]
        }
    }

    private var groups: [Group] = []
    private var groupOfRank: [UInt32: Int] = [:]
    private var ranks = Heap<UInt32>()
    /// Groups that were asked for last, by the rank's last bits: a run of equal characters has few.
    private var recent = [(rank: UInt32, group: Int32)](repeating: (0, -1), count: 16)

    mutating func note(_ place: Int, rank: UInt32) {
        let group = group(of: rank)
        if !groups[group].isWaiting {
            groups[group].isWaiting = true
            ranks.push(rank)
        }
        groups[group].append(Int32(place))
    }

    /// Takes the next place. A pair that is no longer there is given all the same; who asks sees that.
    mutating func next() -> (rank: UInt32, place: Int)? {
        while let rank = ranks.first {
            let group = group(of: rank)
            if let place = groups[group].removeFirst() { return (rank, Int(place)) }
            groups[group] = Group()
            _ = ranks.pop()
        }
        return nil
    }

    private mutating func group(of rank: UInt32) -> Int {
        let slot = Int(rank & 15)
        if recent[slot].rank == rank, recent[slot].group >= 0 { return Int(recent[slot].group) }
        let group = groupOfRank[rank] ?? groups.count
        if group == groups.count {
            groupOfRank[rank] = group
            groups.append(Group())
        }
        recent[slot] = (rank, Int32(group))
        return group
    }
}

/// A binary heap, the smallest first.
struct Heap<Element: Comparable> {
    private var items: [Element] = []

    var first: Element? { items.first }

    mutating func push(_ element: Element) {
        items.append(element)
        var child = items.count - 1
        while child > 0, items[child] < items[(child - 1) / 2] {
            items.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func pop() -> Element? {
        guard let first = items.first else { return nil }
        let last = items.removeLast()
        if items.isEmpty { return first }
        var parent = 0
        while true {
            var child = parent * 2 + 1
            if child >= items.count { break }
            if child + 1 < items.count, items[child + 1] < items[child] { child += 1 }
            if last <= items[child] { break }
            items[parent] = items[child]
            parent = child
        }
        items[parent] = last
        return first
    }
}
