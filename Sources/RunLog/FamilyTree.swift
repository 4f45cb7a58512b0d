// Family trees as SVG: models as boxes in columns of generations, parents and children joined by lines.

/// A tree of models in which every child has two parents.
public struct FamilyTree: Sendable {
    public struct Member: Sendable {
        public var name: String
        /// Column, from 0.
        public var generation: Int
        public var parents: [String]
        /// Drawn with dashed edges.
        public var isMarked: Bool
        public var value: Double
        /// Below the value; empty for none.
        public var note: String

        public init(name: String, generation: Int, parents: [String], isMarked: Bool, value: Double, note: String = "")
        {
            (self.name, self.generation, self.parents) = (name, generation, parents)
            (self.isMarked, self.value, self.note) = (isMarked, value, note)
        }
    }

    public var title: String
    public var members: [Member]
    /// What dashed edges mean; empty when there are none.
    public var markLegend: String
    /// Drawn with a frame.
    public var best: String?

    public init(title: String, members: [Member], markLegend: String = "", best: String? = nil) {
        (self.title, self.members, self.markLegend, self.best) = (title, members, markLegend, best)
    }

    private static let columnWidth = 190.0, rowHeight = 62.0, boxWidth = 128.0, boxHeight = 46.0

    public func svg() -> String {
        let places = placed()
        let columns = Double((members.map(\.generation).max() ?? 0) + 1)
        let rows = Double(Set(members.map(\.generation)).map { g in members.count { $0.generation == g } }.max() ?? 1)
        let width = max(420, 40 + columns * Self.columnWidth), height = 110 + rows * Self.rowHeight
        var out = [SVG.text(title, 20, 28, size: 17, weight: "600")]
        if !markLegend.isEmpty {
            out += [
                SVG.line(20, 48, 50, 48, color: SVG.palette[1], width: 2, dashes: "6 4"), SVG.text(markLegend, 58, 52),
            ]
        }
        for generation in 0..<Int(columns) {
            out.append(
                SVG.text(
                    generation == 0 ? "foundations" : "generation \(generation)",
                    20 + Double(generation) * Self.columnWidth + Self.boxWidth / 2, 78, anchor: "middle"))
        }
        for member in members {
            for parent in member.parents { out += edge(from: places[parent], to: places[member.name], member) }
        }
        for member in members { out += box(member, places[member.name]!) }
        return SVG.document(width: width, height: height, title: title, out)
    }

    private typealias Place = (x: Double, y: Double)

    private func placed() -> [String: Place] {
        var rows: [Int: Int] = [:], places: [String: Place] = [:]
        for member in members {
            let row = rows[member.generation, default: 0]
            rows[member.generation] = row + 1
            places[member.name] = (20 + Double(member.generation) * Self.columnWidth, 90 + Double(row) * Self.rowHeight)
        }
        return places
    }

    private func edge(from parent: Place?, to child: Place?, _ member: Member) -> [String] {
        guard let parent, let child else { return [] }
        let (x1, y1) = (parent.x + Self.boxWidth, parent.y + Self.boxHeight / 2),
            (x2, y2) = (child.x, child.y + Self.boxHeight / 2)
        let bend = max(30, (x2 - x1) / 2), color = member.isMarked ? SVG.palette[1] : SVG.ink
        let points = [x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2].map(SVG.number)
        return [
            "<path d=\"M\(points[0]) \(points[1]) C\(points[2]) \(points[3]) \(points[4]) \(points[5]) \(points[6]) \(points[7])\" "
                + "fill=\"none\" stroke=\"\(color)\" stroke-width=\"\(member.isMarked ? "2" : "1.2")\" stroke-opacity=\"0.75\""
                + (member.isMarked ? " stroke-dasharray=\"6 4\"" : "") + "/>"
        ]
    }

    private func box(_ member: Member, _ place: Place) -> [String] {
        let values = members.map(\.value), low = values.min() ?? 0, high = values.max() ?? 1
        let share = high > low ? (member.value - low) / (high - low) : 0.5
        let fill = HeatMap.shade(share)
        let name = member.name.count > 18 ? "…" + member.name.suffix(17) : member.name
        let note = decimals(member.value, 2) + (member.note.isEmpty ? "" : "  " + member.note)
        return [
            SVG.rectangle(
                place.x, place.y, Self.boxWidth, Self.boxHeight, fill: fill.color,
                stroke: member.name == best ? SVG.palette[1] : SVG.ink, radius: 6, title: "\(member.name): \(note)"),
            SVG.text(
                name, place.x + Self.boxWidth / 2, place.y + 19, anchor: "middle", size: 12, weight: "600",
                color: fill.ink),
            SVG.text(note, place.x + Self.boxWidth / 2, place.y + 36, anchor: "middle", size: 11, color: fill.ink),
        ]
    }
}

extension HeatMap {
    /// A colour of the sequential scale and the ink that reads on it; share 0...1.
    static func shade(_ share: Double) -> (color: String, ink: String) {
        let color = HeatMap(title: "", rows: [], columns: [], values: []).color(share, 0...1)
        return (color.hex, color.ink)
    }
}
