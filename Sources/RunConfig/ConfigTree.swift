// A configuration between text and struct: values that remember where they were written, and layering of such trees.

/// Where a value was written.
package struct Place: Sendable, Equatable {
    /// "sft.yaml:12" or "command line".
    package let description: String
}

/// One value of a configuration. Scalars stay text until the field that takes them says what it expects, so that
/// `no`, `08` and `1e-5` mean what the field means and never depend on a YAML version's guesses.
package struct ConfigTree: Sendable {
    package indirect enum Kind: Sendable {
        /// `~`, `null`, or nothing after the colon.
        case null
        /// A scalar; `quoted` ones are text and nothing else.
        case scalar(String, quoted: Bool)
        case list([ConfigTree])
        /// Keys in the order they were written, each at most once.
        case map([(key: String, place: Place?, value: ConfigTree)])
    }

    package var kind: Kind
    /// Nil for defaults.
    package var place: Place?

    package init(_ kind: Kind, _ place: Place? = nil) {
        self.kind = kind
        self.place = place
    }

    /// Member of a map; nil for a missing key and for other kinds.
    package subscript(key: String) -> ConfigTree? {
        guard case .map(let entries) = kind else { return nil }
        return entries.first { $0.key == key }?.value
    }

    /// Where the value at a dotted path, or the nearest section around it, was written.
    func place(of path: String) -> Place? {
        var node = self, found = place
        for key in path.split(separator: ".") {
            // An element `list[3]` stands where its list does.
            guard let next = node[String(key.prefix { $0 != "[" })] else { break }
            node = next
            found = next.place ?? found
        }
        return found
    }

    /// This tree with `upper` laid over it: maps are merged key by key, everything else is replaced. An empty section
    /// (`schedule:` with nothing below) says nothing about its keys, so it leaves them.
    func overlaid(by upper: ConfigTree) -> ConfigTree {
        guard case .map(var entries) = kind else { return upper }
        if case .null = upper.kind { return ConfigTree(kind, upper.place) }
        guard case .map(let additions) = upper.kind else { return upper }
        for addition in additions {
            if let i = entries.firstIndex(where: { $0.key == addition.key }) {
                entries[i] = (addition.key, addition.place, entries[i].value.overlaid(by: addition.value))
            } else {
                entries.append(addition)
            }
        }
        return ConfigTree(.map(entries), upper.place ?? place)
    }

    /// The kind in words, for messages.
    package var found: String {
        switch kind {
        case .null: "nothing"
        case .scalar(let text, let quoted): quoted ? "the quoted text \"\(text)\"" : "\"\(text)\""
        case .list: "a list"
        case .map: "a section"
        }
    }
}
