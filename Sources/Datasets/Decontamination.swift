// Training rows that hold questions of a test set, found with an index in memory.
internal import Formats

/// How a training row is taken to hold a question.
public enum ContaminationMatch: String, Sendable, CaseIterable {
    /// The question's words stand in it one behind the other, however few they are.
    case exact
    /// Runs of n words of the question stand in it; the score is the share of the question's words that they cover.
    case ngram
}

/// A question of a test set that a training row holds.
public struct ContaminationHit: Sendable, Equatable {
    /// Position of the test set in the list of test sets, and of the row in it.
    public let test: Int, question: Int
    /// Row of the training data.
    public let row: Int
    /// Share of the question's words that the row covers, or the cosine of two vectors; at most 1.
    public let score: Double
}

/// The questions of test sets by their runs of words. Words are runs of letters and digits, lower-cased, so that case,
/// punctuation and spacing make no difference. By runs, a question shorter than n words matches only a turn with the same words.
///
/// Memory goes with the test sets, not with the training data, which is read row by row.
public struct ContaminationIndex: Sendable {
    private struct Question: Sendable {
        let test: Int, row: Int
        let words: [UInt64]
    }
    private struct Place: Sendable { let question: Int32, position: Int32 }

    private let match: ContaminationMatch
    private let n: Int
    private let threshold: Double
    private var questions: [Question] = []
    private var runs: [UInt64: [Place]] = [:]
    /// Questions shorter than n words: by how many words, and the hash of them.
    private var short: [Int: [UInt64: [Int32]]] = [:]

    /// - Parameters:
    ///   - n: words of a run, at least 1.
    ///   - threshold: the least score that counts, above 0; `exact` wants all words and does not ask.
    public init(_ match: ContaminationMatch, n: Int = 8, threshold: Double = 0.5) {
        precondition(n >= 1 && threshold > 0, "runs of \(n) words, threshold \(threshold)")
        (self.match, self.n, self.threshold) = (match, n, threshold)
    }

    public var questionCount: Int { questions.count }

    /// Adds the questions of one row of a test set: all its user turns together.
    ///
    /// - Returns: false for a row without a word, which nothing can match.
    @discardableResult
    public mutating func add(_ content: RowContent, test: Int, row: Int) -> Bool {
        let words = wordHashes(content.questions.joined(separator: " "))
        if words.isEmpty { return false }
        let question = Int32(questions.count)
        questions.append(Question(test: test, row: row, words: words))
        if words.count < n {
            short[words.count, default: [:]][hash(words[...]), default: []].append(question)
            return true
        }
        let last = match == .exact ? 0 : words.count - n
        for start in 0...last {
            runs[hash(words[start..<start + n]), default: []].append(Place(question: question, position: Int32(start)))
        }
        return true
    }

    /// The questions that a training row holds, in the order in which they were added; nil for a row that asks nothing.
    public func hits(_ content: RowContent, row: Int) -> [ContaminationHit]? {
        let turns = content.questions.map(wordHashes)
        if turns.isEmpty { return nil }
        var found: [Int32: Double] = [:]
        let words = Array(turns.joined())
        switch match {
        case .exact: findWhole(words, &found)
        case .ngram:
            // A short question is one turn, or all of them.
            for part in turns + [words] {
                for q in short[part.count]?[hash(part[...])] ?? [] { found[q] = 1 }
            }
            findRuns(words, &found)
        }
        return found.sorted { $0.key < $1.key }.map { q, score in
            ContaminationHit(test: questions[Int(q)].test, question: questions[Int(q)].row, row: row, score: score)
        }
    }

    private func findWhole(_ words: [UInt64], _ found: inout [Int32: Double]) {
        for (size, questions) in short where size <= words.count {
            for start in 0...words.count - size {
                for q in questions[hash(words[start..<start + size])] ?? [] { found[q] = 1 }
            }
        }
        forEachRun(words) { start, places in
            for place in places where found[place.question] == nil {
                let wanted = questions[Int(place.question)].words
                if words[start...].starts(with: wanted) { found[place.question] = 1 }
            }
        }
    }

    private func findRuns(_ words: [UInt64], _ found: inout [Int32: Double]) {
        var covered: [Int32: [Bool]] = [:]
        forEachRun(words) { _, places in
            for place in places {
                let size = questions[Int(place.question)].words.count
                for i in 0..<n {
                    covered[place.question, default: [Bool](repeating: false, count: size)][Int(place.position) + i] =
                        true
                }
            }
        }
        for (question, marks) in covered {
            let score = Double(marks.count { $0 }) / Double(marks.count)
            if score >= threshold { found[question] = score }
        }
    }

    private func forEachRun(_ words: [UInt64], _ body: (Int, [Place]) -> Void) {
        if words.count < n || runs.isEmpty { return }
        for start in 0...words.count - n {
            if let places = runs[hash(words[start..<start + n])] { body(start, places) }
        }
    }

    private func hash(_ words: ArraySlice<UInt64>) -> UInt64 { words.reduce(UInt64(words.count)) { mixed($0 ^ $1) } }
}

/// The questions of test sets by their vectors. Exact: every training row is compared with every question.
public struct VectorContaminationIndex: Sendable {
    private let threshold: Double
    private var places: [(test: Int, row: Int)] = []
    /// Of length 1, one behind the other.
    private var vectors: [Float] = []
    private var width = 0

    /// - Parameter threshold: the least cosine that counts.
    public init(threshold: Double) { self.threshold = threshold }

    /// - Precondition: all vectors are of one width.
    public mutating func add(_ vector: [Float], test: Int, row: Int) {
        precondition(
            width == 0 || width == vector.count, "a vector of \(vector.count) beside those of \(width) numbers")
        width = vector.count
        places.append((test, row))
        vectors += unit(vector)
    }

    /// The questions whose vectors lie close to a training row's, in the order in which they were added.
    public func hits(_ vector: [Float], row: Int) -> [ContaminationHit] {
        let vector = unit(vector)
        return places.indices.compactMap { question in
            var cosine: Float = 0
            for i in 0..<width { cosine += vectors[question * width + i] * vector[i] }
            guard Double(cosine) >= threshold else { return nil }
            return ContaminationHit(
                test: places[question].test, question: places[question].row, row: row, score: min(1, Double(cosine)))
        }
    }

    /// Of length 1; a vector without a direction stays 0 and is close to none.
    private func unit(_ vector: [Float]) -> [Float] {
        let length = vector.reduce(0) { $0 + $1 * $1 }.squareRoot()
        return length > 0 && length.isFinite ? vector.map { $0 / length } : vector.map { _ in 0 }
    }
}

/// A 64-bit hash for each word of a text: FNV-1a over its lower-cased letters and digits.
private func wordHashes(_ text: String) -> [UInt64] {
    var hashes: [UInt64] = [], hash: UInt64 = 0, isInside = false
    let start: UInt64 = 0xCBF2_9CE4_8422_2325, prime: UInt64 = 0x100_0000_01B3
    func take(_ scalar: Unicode.Scalar) { for byte in UTF8.encode(scalar)! { hash = (hash ^ UInt64(byte)) &* prime } }
    for scalar in text.unicodeScalars {
        guard isWordScalar(scalar) else {
            if isInside { hashes.append(mixed(hash)) }
            isInside = false
            continue
        }
        if isWordOfItsOwn(scalar) {
            if isInside { hashes.append(mixed(hash)) }
            (hash, isInside) = (start, false)
            take(scalar)
            hashes.append(mixed(hash))
            continue
        }
        if !isInside { (hash, isInside) = (start, true) }
        if scalar.isASCII {
            let value = scalar.value
            take(0x41...0x5A ~= value ? Unicode.Scalar(value | 0x20)! : scalar)
        } else {
            for lower in scalar.properties.lowercaseMapping.unicodeScalars { take(lower) }
        }
    }
    if isInside { hashes.append(mixed(hash)) }
    return hashes
}

/// Characters of scripts that put no spaces between words: Thai, Lao, kana, Han.
private func isWordOfItsOwn(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x0E00...0x0EFF, 0x3040...0x30FF, 0x3400...0x9FFF, 0xF900...0xFAFF, 0x20000...0x3FFFF: true
    default: false
    }
}

private func isWordScalar(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.isASCII {
        return 0x30...0x39 ~= scalar.value || 0x61...0x7A ~= scalar.value | 0x20
    }
    switch scalar.properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter, .nonspacingMark,
        .spacingMark, .decimalNumber, .letterNumber, .otherNumber:
        return true
    default: return false
    }
}
