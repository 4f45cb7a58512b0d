// A regular expression as a program for a backtracking matcher whose work grows with the text only.
import Diagnostics

/// A pattern ready to search.
///
/// Matching is by backtracking, the first alternative first, as Oniguruma does it. Once a search takes more steps than
/// it should, the matcher remembers which instruction failed where: a state is then entered once, so the work is at
/// most program x text however the pattern is built, and no limit can cut a match short. Back references, which this
/// would not hold for, are not supported.
final class SplitRegex: Sendable {
    enum Instruction: Sendable {
        case set(Int)
        /// Any number of members, as many as possible first.
        case loop(Int)
        /// Any number of members, none given back.
        case possessive(Int)
        /// The first, or else the second.
        case split(Int, Int)
        case jump(Int)
        case assertion(RegexAssertion)
        /// What follows up to the matching `accept`; goes on at the second number.
        case look(start: Int, next: Int, negative: Bool)
        /// The same backwards, for texts of so many characters.
        case lookBehind(start: Int, next: Int, negative: Bool, lengths: ClosedRange<Int>)
        case atomic(start: Int, next: Int)
        /// End of the program, or of the part of a look-around or atomic group.
        case accept
    }

    let pattern: String
    let program: [Instruction]
    let sets: [CompiledSet]
    /// Bytes that a match can begin with; all for a pattern that matches nothing too.
    let starts: [Bool]
    /// Of each `split`, four words of bits: the bytes that its first way can go on with.
    private let entries: [UInt64]

    /// Largest program: repetitions of groups are written out.
    static let maxProgram = 20_000

    /// - Throws: `UserError` saying what in the pattern is not supported.
    init(_ pattern: String, _ dialect: RegexDialect = .oniguruma) throws {
        let node = try RegexParser.parse(pattern, dialect)
        var compiler = Compiler()
        try compiler.emit(node)
        compiler.program.append(.accept)
        (self.pattern, program, sets) = (pattern, compiler.program, compiler.sets.map(CompiledSet.init))
        starts = Self.starts(node)
        entries = Self.entries(program, sets)
    }

    /// A pattern that matches one text.
    init(exactly text: String) {
        let scalars = text.unicodeScalars.map(\.value)
        pattern = text
        program = scalars.indices.map { .set($0) } + [.accept]
        sets = scalars.map { CompiledSet(.ranges([$0...$0])) }
        let first = text.utf8.first
        starts = (0..<256).map { first == nil || UInt8($0) == first }
        entries = []
    }

    /// Whether the first way of the `split` at a place may match a text that goes on with a byte; else it fails at once.
    @inline(__always) func canEnter(_ split: Int, _ byte: UInt8) -> Bool {
        entries[split * 4 + Int(byte >> 6)] >> UInt64(byte & 63) & 1 != 0
    }

    private static func entries(_ program: [Instruction], _ sets: [CompiledSet]) -> [UInt64] {
        let starts = sets.map { set in
            (0..<4).map { word in
                (0..<64).reduce(UInt64(0)) { $0 | (set.mayStart(UInt8(word * 64 + $1)) ? 1 << $1 : 0) }
            }
        }
        return program.flatMap { instruction -> [UInt64] in
            guard case .split(let first, _) = instruction else { return [0, 0, 0, 0] }
            return bytes(from: first, program, starts)
        }
    }

    /// Bits of the bytes that a way through the program can begin with: all where it may take no byte, or branches much.
    private static func bytes(from start: Int, _ program: [Instruction], _ starts: [[UInt64]]) -> [UInt64] {
        let all = [UInt64](repeating: .max, count: 4)
        var bits: [UInt64] = [0, 0, 0, 0], todo = [start], seen: Set<Int> = []
        while let place = todo.popLast() {
            guard seen.insert(place).inserted else { continue }
            if seen.count > 32 { return all }
            switch program[place] {
            case .set(let set): for word in 0..<4 { bits[word] |= starts[set][word] }
            case .loop(let set), .possessive(let set):
                for word in 0..<4 { bits[word] |= starts[set][word] }
                todo.append(place + 1)
            case .split(let first, let second): todo += [first, second]
            case .jump(let target): todo.append(target)
            case .assertion, .look, .lookBehind, .atomic, .accept: return all
            }
        }
        return bits
    }

    private static func starts(_ node: RegexNode) -> [Bool] {
        let all = [Bool](repeating: true, count: 256)
        func first(_ node: RegexNode) -> (bytes: [Bool], isNullable: Bool) {
            switch node {
            case .empty, .look, .assertion: return ([Bool](repeating: false, count: 256), true)
            case .set(let set):
                let set = CompiledSet(set)
                return ((0..<256).map { set.mayStart(UInt8($0)) }, false)
            case .sequence(let parts):
                var bytes = [Bool](repeating: false, count: 256)
                for part in parts {
                    let (more, isNullable) = first(part)
                    for i in 0..<256 where more[i] { bytes[i] = true }
                    if !isNullable { return (bytes, false) }
                }
                return (bytes, true)
            case .alternatives(let branches):
                let all = branches.map(first)
                return ((0..<256).map { i in all.contains { $0.bytes[i] } }, all.contains { $0.isNullable })
            case .repeated(let body, let min, _, _):
                let (bytes, isNullable) = first(body)
                return (bytes, isNullable || min == 0)
            case .atomic(let body): return first(body)
            }
        }
        let (bytes, isNullable) = first(node)
        return isNullable ? all : bytes
    }
}

private struct Compiler {
    var program: [SplitRegex.Instruction] = []
    var sets: [RegexSet] = []

    private mutating func set(_ set: RegexSet) -> Int {
        sets.append(set)
        return sets.count - 1
    }

    mutating func emit(_ node: RegexNode) throws {
        if program.count > SplitRegex.maxProgram { throw UserError("its repetitions make it too long") }
        switch node {
        case .empty: break
        case .set(let members): program.append(.set(set(members)))
        case .sequence(let parts): for part in parts { try emit(part) }
        case .alternatives(let branches): try emitAlternatives(branches)
        case .repeated(let body, let min, let max, let kind): try emitRepeated(body, min, max, kind)
        case .assertion(let assertion): program.append(.assertion(assertion))
        case .atomic(let body):
            guard body.isBounded else {
                throw UserError("an atomic group with repetition without limit is not supported")
            }
            try emitPart(body) { .atomic(start: $0, next: $1) }
        case .look(let body, behind: false, let negative):
            try emitPart(body) { .look(start: $0, next: $1, negative: negative) }
        case .look(let body, behind: true, let negative):
            guard let lengths = body.lengths, lengths.upperBound <= 255 else {
                throw UserError("a look-behind without a limit is not supported")
            }
            try emitPart(body) { .lookBehind(start: $0, next: $1, negative: negative, lengths: lengths) }
        }
    }

    private mutating func emitPart(_ body: RegexNode, _ make: (Int, Int) -> SplitRegex.Instruction) throws {
        let place = program.count
        program.append(.accept)
        try emit(body)
        program.append(.accept)
        program[place] = make(place + 1, program.count)
    }

    private mutating func emitAlternatives(_ branches: [RegexNode]) throws {
        var ends: [Int] = []
        for (i, branch) in branches.enumerated() {
            let place = program.count
            if i < branches.count - 1 { program.append(.accept) }
            try emit(branch)
            guard i < branches.count - 1 else { break }
            ends.append(program.count)
            program.append(.accept)
            program[place] = .split(place + 1, program.count)
        }
        for end in ends { program[end] = .jump(program.count) }
    }

    private mutating func emitRepeated(_ body: RegexNode, _ min: Int, _ max: Int?, _ kind: RegexRepetition) throws {
        if case .set(let members) = body {
            if kind == .possessive, let max, max > min {
                // Optional members, each taken where it can be: bounded, so by an atomic group.
                return try emit(.atomic(.repeated(body, min: min, max: max, .greedy)))
            }
            let index = set(members)
            for _ in 0..<min { program.append(.set(index)) }
            guard let max else {
                switch kind {
                case .greedy: program.append(.loop(index))
                case .possessive: program.append(.possessive(index))
                case .lazy: emitLoop([.set(index)], isLazy: true)
                }
                return
            }
            return try emitOptional(body, max - min, kind)
        }
        if kind == .possessive { return try emit(.atomic(.repeated(body, min: min, max: max, .greedy))) }
        for _ in 0..<min { try emit(body) }
        if let max { return try emitOptional(body, max - min, kind) }
        var part = Compiler(program: [], sets: sets)
        try part.emit(body)
        sets = part.sets
        emitLoop(part.program, isLazy: kind == .lazy)
        if program.count > SplitRegex.maxProgram { throw UserError("its repetitions make it too long") }
    }

    /// `body*`. States are entered once, so a body that matches nothing does not go round for ever.
    private mutating func emitLoop(_ body: [SplitRegex.Instruction], isLazy: Bool) {
        let start = program.count, end = start + body.count + 2
        program.append(isLazy ? .split(end, start + 1) : .split(start + 1, end))
        program += body.map { $0.moved(by: start + 1) }
        program.append(.jump(start))
    }

    /// `(body(body(...)?)?)?`
    private mutating func emitOptional(_ body: RegexNode, _ count: Int, _ kind: RegexRepetition) throws {
        var places: [Int] = []
        for _ in 0..<count {
            places.append(program.count)
            program.append(.accept)
            try emit(body)
        }
        for place in places {
            program[place] = kind == .lazy ? .split(program.count, place + 1) : .split(place + 1, program.count)
        }
    }
}

extension SplitRegex.Instruction {
    fileprivate func moved(by offset: Int) -> Self {
        switch self {
        case .split(let a, let b): .split(a + offset, b + offset)
        case .jump(let a): .jump(a + offset)
        case .look(let start, let next, let negative):
            .look(start: start + offset, next: next + offset, negative: negative)
        case .lookBehind(let start, let next, let negative, let lengths):
            .lookBehind(start: start + offset, next: next + offset, negative: negative, lengths: lengths)
        case .atomic(let start, let next): .atomic(start: start + offset, next: next + offset)
        default: self
        }
    }
}

extension RegexNode {
    /// Number of characters it can match; nil without a limit.
    var lengths: ClosedRange<Int>? {
        switch self {
        case .empty, .look, .assertion: return 0...0
        case .set: return 1...1
        case .atomic(let body): return body.lengths
        case .sequence(let parts):
            var sum = 0...0
            for part in parts {
                guard let more = part.lengths else { return nil }
                sum = (sum.lowerBound + more.lowerBound)...(sum.upperBound + more.upperBound)
            }
            return sum
        case .alternatives(let branches):
            let all = branches.map(\.lengths)
            guard !all.contains(nil) else { return nil }
            return all.map { $0!.lowerBound }.min()!...all.map { $0!.upperBound }.max()!
        case .repeated(let body, let min, let max, _):
            guard let max, let once = body.lengths else { return nil }
            return (once.lowerBound * min)...(once.upperBound * max)
        }
    }

    var isBounded: Bool { lengths != nil }
}
