// Several endings of one beginning: the beginning is computed once.
internal import Datasets
internal import Layers
internal import Models
internal import Tensors

/// Log-probabilities of the trained tokens of every alternative, by group: the beginning that the alternatives of a group
/// share goes through the model once and stays in a cache, each ending continues from it.
///
/// - Parameter maxTokens: tokens of a forward pass; decides memory, not the result.
func alternativeLogProbabilities(
    _ model: any CausalLanguageModel, _ groups: [[TokenizedExample]], maxTokens: Int
) -> [[[Float]]] {
    let shared = groups.map(sharedTokens)
    let turnAlike = groups.allSatisfy { group in
        Set(group.map { model.rotationKinds(ofLength: $0.ids.count) }).count == 1
    }
    guard turnAlike, shared.allSatisfy({ $0 >= 2 }) else {
        // Nothing to share: every alternative is a document of its own.
        let all = rowLogProbabilities(model, TokenizedDataset(groups.joined()), maxTokens: maxTokens)
        var rest = all[...]
        return groups.map { group in
            defer { rest = rest.dropFirst(group.count) }
            return Array(rest.prefix(group.count))
        }
    }
    var result: [[[Float]]] = [], start = 0
    while start < groups.count {
        var end = start, tokens = 0
        while end < groups.count, end == start || tokens + shared[end] <= maxTokens {
            tokens += shared[end]
            end += 1
        }
        result += scored(model, Array(groups[start..<end]), Array(shared[start..<end]))
        start = end
    }
    return result
}

/// Tokens that all alternatives begin with and none is trained on.
private func sharedTokens(_ group: [TokenizedExample]) -> Int {
    let first = group[0].ids
    let common = group.map { zip($0.ids, first).prefix { $0 == $1 }.count }.min()!
    let untrained = group.map { $0.trained.firstIndex(of: true) ?? $0.ids.count }.min()!
    return min(common, untrained, group.map(\.ids.count).min()! - 1)
}

private func scored(_ model: any CausalLanguageModel, _ groups: [[TokenizedExample]], _ shared: [Int]) -> [[[Float]]] {
    withoutGradients {
        let rows = Array(groups.indices), alternatives = groups[0].count
        let cache = model.makeCache(
            sequences: rows.count, capacity: groups.joined().map(\.ids.count).max()!)
        cache.reaches = groups.map { $0.map(\.ids.count).max()! }
        // The last shared token comes with each ending: its output predicts the ending's first token.
        let beginnings = rows.map { Array(groups[$0][0].ids.prefix(shared[$0] - 1)) }
        _ = forward(model, beginnings, cache)
        var result = rows.map { _ in [[Float]](repeating: [], count: alternatives) }
        for k in 0..<alternatives {
            let endings = rows.map { Array(groups[$0][k].ids[(shared[$0] - 1)...]) }
            let hidden = forward(model, endings.map { Array($0.dropLast()) }, cache)
            let targets = Tensor(endings.flatMap { $0.dropFirst().map(Int64.init) }, on: model.device)
            var values = linearLogProbabilities(
                hidden, model.headWeight.read(in: hidden.dtype), labels: targets, cap: model.logitCap
            )
            .values(Float.self)[...]
            for row in rows {
                let marks = groups[row][k].trained[shared[row]...]
                result[row][k] = zip(values, marks).filter(\.1).map(\.0)
                values = values.dropFirst(marks.count)
                cache.truncate(row: row, to: shared[row] - 1)
            }
        }
        return result
    }
}

/// Continues every sequence of the cache by its tokens.
private func forward(_ model: any CausalLanguageModel, _ tokens: [[Int32]], _ cache: KVCache) -> Tensor {
    let plan = AttentionPlan(
        continuing: cache, rows: Array(tokens.indices), lengths: tokens.map(\.count), on: model.device)
    return model.hiddenStates(Tensor(tokens.joined().map(Int64.init), on: model.device), plan, cache: cache)
}
