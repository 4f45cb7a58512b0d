// Searches a text with a `SplitRegex`.

/// One text under search. Look-around sees `text` and nothing beyond it.
struct RegexMatcher {
    private let regex: SplitRegex
    private var text: UnsafeBufferPointer<UInt8>
    /// Work of fast matching so far, and how much is allowed before states are remembered.
    private var steps = 0
    private var allowance = 0
    private var memory: StateMemory?
    private var stack: [Choice] = []

    /// Where to go on when the present way fails.
    private struct Choice {
        var instruction: Int
        var at: Int
        /// Of a loop: it may give back to here.
        var lowest: Int
        /// Length of the path when the choice was made.
        var path: Int
    }

    init(_ regex: SplitRegex, _ text: UnsafeBufferPointer<UInt8> = UnsafeBufferPointer(start: nil, count: 0)) {
        (self.regex, self.text) = (regex, text)
        take(text)
    }

    /// Turns to another text.
    mutating func take(_ text: UnsafeBufferPointer<UInt8>) {
        self.text = text
        (steps, allowance, memory) = (0, 1000 + 40 * text.count, nil)
        stack.removeAll(keepingCapacity: true)
    }

    /// The first match that begins at `start` or after it.
    mutating func firstMatch(from start: Int) -> Range<Int>? {
        var at = start
        while at <= text.count {
            if at == text.count ? regex.starts[0] && regex.starts[255] : regex.starts[Int(text[at])],
                let end = match(0, at)
            {
                memory?.forget(position: end)
                return at..<end
            }
            if at == text.count { break }
            at += utf8Length(text[at])
        }
        return nil
    }

    /// All matches as an iterator over the text gives them: an empty one right after another match does not count.
    mutating func matches() -> [Range<Int>] {
        var found: [Range<Int>] = [], at = 0
        while at <= text.count, let match = firstMatch(from: at) {
            if match.isEmpty, match.lowerBound == found.last?.upperBound {
                at =
                    match.upperBound < text.count
                    ? match.upperBound + utf8Length(text[match.upperBound]) : text.count + 1
                continue
            }
            found.append(match)
            at = match.upperBound
        }
        return found
    }

    /// End of the match of the part of the program from `start` on that begins at `at`.
    private mutating func match(_ start: Int, _ at: Int) -> Int? {
        if memory == nil {
            if let end = matchFast(start, at) { return end >= 0 ? end : nil }
            memory = StateMemory(program: regex.program.count, text: text.count)
            stack.removeAll()
        }
        return matchRemembering(start, at)
    }

    @inline(__always) private func member(_ set: Int, _ at: Int) -> Int {
        guard at < text.count else { return 0 }
        let (scalar, length) = UTF8Scalars.scalar(text, at)
        return regex.sets[set].contains(scalar) ? length : 0
    }

    // MARK: Fast

    /// The end, -1 for no match, or nil when it takes too long.
    private mutating func matchFast(_ start: Int, _ start_at: Int) -> Int? {
        let bottom = stack.count
        var instruction = start, at = start_at
        while true {
            steps += 1
            if steps > allowance { return nil }
            var fails = false
            switch regex.program[instruction] {
            case .accept:
                stack.removeSubrange(bottom...)
                return at
            case .set(let set):
                let length = member(set, at)
                fails = length == 0
                at += length
                instruction += 1
            case .loop(let set), .possessive(let set):
                let lowest = at
                while true {
                    let length = member(set, at)
                    if length == 0 { break }
                    at += length
                }
                steps += (at - lowest) >> 2
                instruction += 1
                if at > lowest, case .loop = regex.program[instruction - 1] {
                    stack.append(Choice(instruction: instruction, at: at, lowest: lowest, path: 0))
                }
            case .split(let first, let second):
                if at < text.count, !regex.canEnter(instruction, text[at]) {
                    instruction = second
                    continue
                }
                stack.append(Choice(instruction: second, at: at, lowest: at, path: 0))
                instruction = first
            case .jump(let target): instruction = target
            case .assertion(let assertion):
                fails = !holds(assertion, at)
                instruction += 1
            case .look(let body, let next, let negative):
                guard let end = matchFast(body, at) else { return nil }
                fails = (end >= 0) == negative
                instruction = next
            case .lookBehind(let body, let next, let negative, let lengths):
                guard let found = lookBehind(lengths, at, { $0.matchFast(body, $1) }) else { return nil }
                fails = found == negative
                instruction = next
            case .atomic(let body, let next):
                guard let end = matchFast(body, at) else { return nil }
                fails = end < 0
                at = max(end, 0)
                instruction = next
            }
            guard fails else { continue }
            guard stack.count > bottom else { return -1 }
            (instruction, at) = (stack[stack.count - 1].instruction, stack[stack.count - 1].at)
            if at > stack[stack.count - 1].lowest {  // a loop gives one character back
                at = UTF8Scalars.start(text, before: at)
                if at == stack[stack.count - 1].lowest { stack.removeLast() } else { stack[stack.count - 1].at = at }
            } else {
                stack.removeLast()
            }
        }
    }

    // MARK: Remembering

    /// The same with each state entered once; nil for no match.
    private mutating func matchRemembering(_ start: Int, _ start_at: Int, isLook: Bool = false) -> Int? {
        let bottom = stack.count, pathStart = memory!.path.count
        var instruction = start, at = start_at
        defer {
            stack.removeSubrange(bottom...)
            memory!.path.removeSubrange(pathStart...)
        }
        while true {
            var fails = false
            switch memory!.enter(instruction, at) {
            case .fresh: break
            case .failed: fails = true
            case .succeeded:
                if isLook {
                    memory!.succeed(from: pathStart)
                    return at
                }
            }
            if !fails {
                switch regex.program[instruction] {
                case .accept:
                    if isLook { memory!.succeed(from: pathStart) } else { memory!.allow(from: pathStart) }
                    return at
                case .set(let set):
                    let length = member(set, at)
                    fails = length == 0
                    at += length
                    instruction += 1
                case .loop(let set):
                    let length = member(set, at)
                    if length > 0 {
                        stack.append(Choice(instruction: instruction + 1, at: at, lowest: at, path: memory!.path.count))
                        at += length
                    } else {
                        instruction += 1
                    }
                case .possessive(let set):
                    let length = member(set, at)
                    if length > 0 { at += length } else { instruction += 1 }
                case .split(let first, let second):
                    stack.append(Choice(instruction: second, at: at, lowest: at, path: memory!.path.count))
                    instruction = first
                case .jump(let target): instruction = target
                case .assertion(let assertion):
                    fails = !holds(assertion, at)
                    instruction += 1
                case .look(let body, let next, let negative):
                    fails = (matchRemembering(body, at, isLook: true) != nil) == negative
                    instruction = next
                case .lookBehind(let body, let next, let negative, let lengths):
                    let found = lookBehind(lengths, at) { matcher, from in
                        matcher.matchBounded(body, from)
                    }
                    fails = found! == negative
                    instruction = next
                case .atomic(let body, let next):
                    let end = matchBounded(body, at)!
                    fails = end < 0
                    at = max(end, 0)
                    instruction = next
                }
            }
            guard fails else { continue }
            guard stack.count > bottom, let choice = stack.popLast() else { return nil }
            (instruction, at) = (choice.instruction, choice.at)
            memory!.path.removeSubrange(choice.path...)
        }
    }

    /// A part of limited length, matched without memory: what it costs does not grow with the text.
    private mutating func matchBounded(_ start: Int, _ at: Int) -> Int? {
        steps = Int.min / 2
        return matchFast(start, at)
    }

    // MARK: Assertions

    private mutating func lookBehind(
        _ lengths: ClosedRange<Int>, _ at: Int, _ match: (inout RegexMatcher, Int) -> Int?
    ) -> Bool? {
        var start = at
        for count in 0...lengths.upperBound {
            if count >= lengths.lowerBound {
                // The part must end here; a shorter way to match it is another length.
                guard let end = match(&self, start) else { return nil }
                if end == at { return true }
            }
            if start == 0 { break }
            start = UTF8Scalars.start(text, before: start)
        }
        return false
    }

    private func holds(_ assertion: RegexAssertion, _ at: Int) -> Bool {
        switch assertion {
        case .textStart: return at == 0
        case .textEnd: return at == text.count
        case .textEndOrLastBreak: return at == text.count || (at == text.count - 1 && text[at] == 0x0A)
        case .lineStart: return at == 0 || (text[at - 1] == 0x0A && at < text.count)
        case .lineEnd: return at == text.count || text[at] == 0x0A
        case .wordBoundary: return isWord(before: at) != isWord(after: at)
        case .noWordBoundary: return isWord(before: at) == isWord(after: at)
        }
    }

    private func isWord(before at: Int) -> Bool { at > 0 && isWord(after: UTF8Scalars.start(text, before: at)) }
    private func isWord(after at: Int) -> Bool {
        at < text.count && RegexSet.word.contains(UTF8Scalars.scalar(text, at).0)
    }
}

/// Which instructions were tried at which places: two bits a state.
private struct StateMemory {
    enum Answer { case fresh, failed, succeeded }

    private let width: Int
    private var tried: [UInt64]
    private var succeeded: [UInt64]
    /// States of the way being tried.
    var path: [Int] = []

    init(program: Int, text: Int) {
        width = program
        let words = (program * (text + 1) + 63) / 64
        tried = [UInt64](repeating: 0, count: words)
        succeeded = tried
    }

    /// Notes that a state is entered; whoever entered it before and came back has failed.
    mutating func enter(_ instruction: Int, _ at: Int) -> Answer {
        let state = at * width + instruction, bit = UInt64(1) << UInt64(state & 63)
        if succeeded[state >> 6] & bit != 0 { return .succeeded }
        if tried[state >> 6] & bit != 0 { return .failed }
        tried[state >> 6] |= bit
        path.append(state)
        return .fresh
    }

    /// Every state of the way so far leads to a match of the look-around.
    mutating func succeed(from start: Int) {
        for state in path[start...] { succeeded[state >> 6] |= 1 << UInt64(state & 63) }
    }

    /// The states of a way that led to a match may be entered again.
    mutating func allow(from start: Int) {
        for state in path[start...] { tried[state >> 6] &= ~(1 << UInt64(state & 63)) }
    }

    /// The next search begins where this one ended.
    mutating func forget(position: Int) {
        for state in position * width..<(position + 1) * width { tried[state >> 6] &= ~(1 << UInt64(state & 63)) }
    }
}
