// Dates in running text, as far as they say at least a year.

/// A year, month or day.
struct CalendarDate: Equatable, CustomStringConvertible {
    let year: Int
    let month: Int?
    let day: Int?

    var description: String {
        func two(_ n: Int) -> String { n < 10 ? "0\(n)" : "\(n)" }
        return "\(year)" + (month.map { "-" + two($0) } ?? "") + (day.map { "-" + two($0) } ?? "")
    }

    /// `2024-03-07`, `2024-03` or `2024`; nil for anything else.
    init?(_ text: String) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        let numbers = parts.map { $0.allSatisfy { $0.isASCII && $0.isNumber } ? Int($0) : nil }
        guard (1...3).contains(parts.count), parts[0].count == 4, parts.dropFirst().allSatisfy({ $0.count == 2 }),
            let year = numbers[0]
        else { return nil }
        self.init(year: year, month: parts.count > 1 ? numbers[1] : nil, day: parts.count > 2 ? numbers[2] : nil)
        if parts.count > 1, month == nil || parts.count > 2 && day == nil { return nil }
    }

    private init?(year: Int, month: Int?, day: Int?) {
        guard (1000...2999).contains(year), (1...12).contains(month ?? 1), (1...31).contains(day ?? 1) else {
            return nil
        }
        (self.year, self.month, self.day) = (year, month, day)
    }

    /// Whether its first day comes after the last day of `other`.
    func begins(after other: CalendarDate) -> Bool {
        let first = [year, month ?? 1, day ?? 1], last = [other.year, other.month ?? 12, other.day ?? 31]
        return last.lexicographicallyPrecedes(first)
    }

    private static let months = [
        "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
        "december",
    ]
    /// Words behind which a number of four digits is a year: most others are not.
    private static let beforeYears: Set<String> = [
        "in", "since", "until", "till", "by", "of", "from", "after", "before", "during", "year", "late", "early", "mid",
        "summer", "autumn", "winter", "spring", "fall",
    ]

    /// ISO dates, months with their year (`March 2024`, `7 Mar 2024`, `March 7, 2024`), and years behind a word that
    /// years follow.
    static func all(in text: String) -> [CalendarDate] {
        let words = text.split { !($0.isLetter || $0.isNumber || $0 == "-") }.map { $0.lowercased() }
        var dates: [CalendarDate] = []
        for (i, word) in words.enumerated() {
            if word.contains("-"), let date = CalendarDate(word) {
                dates.append(date)
                continue
            }
            guard word.count == 4, let year = Int(word), (1900...2099).contains(year), i > 0 else { continue }
            if let month = month(words[i - 1]) {
                let day = i > 1 ? dayNumber(words[i - 2]) : nil
                if let date = CalendarDate(year: year, month: month, day: day) { dates.append(date) }
            } else if i > 1, let month = month(words[i - 2]), let day = dayNumber(words[i - 1]) {
                if let date = CalendarDate(year: year, month: month, day: day) { dates.append(date) }
            } else if beforeYears.contains(words[i - 1]) {
                if let date = CalendarDate(year: year, month: nil, day: nil) { dates.append(date) }
            }
        }
        return dates
    }

    /// A month's name, or its first three letters and more.
    private static func month(_ word: String) -> Int? {
        word.count < 3 ? nil : months.firstIndex { $0.hasPrefix(word) }.map { $0 + 1 }
    }

    /// `7`, `7th`.
    private static func dayNumber(_ word: String) -> Int? {
        let digits = word.prefix { $0.isASCII && $0.isNumber }
        guard ["", "st", "nd", "rd", "th"].contains(word.dropFirst(digits.count)) else { return nil }
        return Int(digits).flatMap { (1...31).contains($0) ? $0 : nil }
    }
}
