// The one clock a template may read: `strftime_now`.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A moment in local time, for `strftime_now`.
public struct TemplateTime: Sendable, Equatable {
    public var year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int, microsecond: Int

    public init(
        year: Int, month: Int, day: Int, hour: Int = 0, minute: Int = 0, second: Int = 0, microsecond: Int = 0
    ) {
        (self.year, self.month, self.day) = (year, month, day)
        (self.hour, self.minute, self.second, self.microsecond) = (hour, minute, second, microsecond)
    }

    public static var now: TemplateTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        var local = tm()
        localtime_r(&time.tv_sec, &local)
        return TemplateTime(
            year: Int(local.tm_year) + 1900, month: Int(local.tm_mon) + 1, day: Int(local.tm_mday),
            hour: Int(local.tm_hour), minute: Int(local.tm_min), second: Int(local.tm_sec),
            microsecond: Int(time.tv_nsec) / 1000)
    }

    /// "2026-03-01T12:00:00.000123": how a run remembers its moment.
    public var text: String {
        "\(padded(year, 4))-\(padded(month))-\(padded(day))T\(padded(hour)):\(padded(minute)):\(padded(second))"
            + ".\(padded(microsecond, 6))"
    }

    /// Reads `text` back; nil for anything else.
    public init?(text: String) {
        let parts = text.split(omittingEmptySubsequences: false) { "-T:.".contains($0) }.map { Int($0) }
        guard parts.count == 7, !parts.contains(nil) else { return nil }
        let numbers = parts.compactMap { $0 }
        self.init(
            year: numbers[0], month: numbers[1], day: numbers[2], hour: numbers[3], minute: numbers[4],
            second: numbers[5], microsecond: numbers[6])
        // Out of range, or spelled otherwise (a sign, a missing zero).
        guard self.text == text, (1...12).contains(month), (1...31).contains(day) else { return nil }
    }

    private static let months = [
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ]
    private static let days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

    /// 1 January is 1.
    private var dayOfYear: Int {
        let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][(month - 1) % 12]
        return before + day + (isLeap && month > 2 ? 1 : 0)
    }

    /// Sunday is 0 (Sakamoto's method).
    private var weekday: Int {
        let y = month < 3 ? year - 1 : year
        return (y + y / 4 - y / 100 + y / 400 + [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4][(month - 1) % 12] + day) % 7
    }

    /// Python's `strftime` in the C locale; an unknown code is kept as it is.
    public func formatted(_ format: String) -> String {
        var output = ""
        var scalars = Array(format.unicodeScalars)[...]
        while let scalar = scalars.popFirst() {
            guard scalar == "%", let code = scalars.first else {
                output.unicodeScalars.append(scalar)
                continue
            }
            scalars.removeFirst()
            if code == "-", let next = scalars.first, let text = field(next) {
                scalars.removeFirst()
                let bare = text.drop { $0 == "0" || $0 == " " }
                output += bare.isEmpty ? "0" : String(bare)
            } else if let text = field(code) {
                output += text
            } else {
                output.unicodeScalars.append(contentsOf: ["%", code])
            }
        }
        return output
    }

    private func padded(_ value: Int, _ width: Int = 2, _ fill: Character = "0") -> String {
        let digits = String(value)
        return String(repeating: fill, count: max(0, width - digits.count)) + digits
    }

    private func field(_ code: Unicode.Scalar) -> String? {
        let hour12 = hour % 12 == 0 ? 12 : hour % 12
        switch code {
        case "Y": return String(year)
        case "y": return padded(year % 100)
        case "C": return padded(year / 100)
        case "m": return padded(month)
        case "B": return Self.months[month - 1]
        case "b", "h": return String(Self.months[month - 1].prefix(3))
        case "d": return padded(day)
        case "e": return padded(day, 2, " ")
        case "j": return padded(dayOfYear, 3)
        case "A": return Self.days[weekday]
        case "a": return String(Self.days[weekday].prefix(3))
        case "w": return String(weekday)
        case "u": return String(weekday == 0 ? 7 : weekday)
        case "U": return padded((dayOfYear + 6 - weekday) / 7)
        case "W": return padded((dayOfYear + 6 - (weekday + 6) % 7) / 7)
        case "H": return padded(hour)
        case "I": return padded(hour12)
        case "M": return padded(minute)
        case "S": return padded(second)
        case "f": return padded(microsecond, 6)
        case "p": return hour < 12 ? "AM" : "PM"
        case "P": return hour < 12 ? "am" : "pm"
        case "z", "Z": return ""
        case "D", "x": return "\(padded(month))/\(padded(day))/\(padded(year % 100))"
        case "F": return "\(year)-\(padded(month))-\(padded(day))"
        case "T", "X": return "\(padded(hour)):\(padded(minute)):\(padded(second))"
        case "R": return "\(padded(hour)):\(padded(minute))"
        case "c":
            return "\(Self.days[weekday].prefix(3)) \(Self.months[month - 1].prefix(3)) \(padded(day, 2, " ")) "
                + "\(padded(hour)):\(padded(minute)):\(padded(second)) \(year)"
        case "n": return "\n"
        case "t": return "\t"
        case "%": return "%"
        default: return nil
        }
    }
}
