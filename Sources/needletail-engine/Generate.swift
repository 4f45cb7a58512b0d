// generate and chat.
import CommandLineInterface
import Datasets
import Diagnostics
import Evaluation
import Formats
import Generation
import Glibc
import Models
import RunLog
import Tokenizers

extension SamplingOptions {
    func settings(batch: Int) -> GenerationSettings {
        GenerationSettings(
            sampling: SamplingSettings(
                temperature: temperature, topK: topK, topP: topP, minP: minP, repetitionPenalty: repetitionPenalty,
                seed: seed),
            maxNewTokens: maxNewTokens, stop: stop, batch: batch)
    }
}

func generate(_ command: GenerateCommand) throws {
    let rows = try command.input.map { try JSONLinesInput($0) }
    let output = try LinesOutput(command.output)
    let model = try OpenGenerator(command.model, weights: command.weights)
    let prompts = try Prompts(command, model)
    let generator = model.generator
    let settings = command.sampling.settings(batch: command.batch)
    guard let rows else {
        let text = try command.prompt == "-" ? String(decoding: readAll(STDIN_FILENO), as: UTF8.self) : command.prompt!
        let ids = try prompts.ids(text, "the prompt")
        if command.json || command.output != "-" {
            let answer = generator.answers(to: [ids], settings)[0]
            try output.write(command.json ? line(answer) : answer.text)
        } else {
            try stream(generator, ids, settings)
        }
        return try output.finish()
    }
    var waiting: [[Int32]] = [], first = 0
    func flush() throws {
        for answer in generator.answers(to: waiting, settings, firstIndex: first) { try output.write(line(answer)) }
        first += waiting.count
        waiting = []
    }
    while let (number, row) = try rows.next() {
        waiting.append(try prompts.ids(row, "\(rows.name) line \(number)"))
        if waiting.count == command.batch { try flush() }
    }
    if !waiting.isEmpty { try flush() }
    try output.finish()
}

/// Text as it is written, ended by a line break.
private func stream(_ generator: Generator, _ ids: [Int32], _ settings: GenerationSettings) throws {
    var failure: (any Error)?
    _ = generator.answers(to: [ids], settings) { _, piece in
        do {
            try StandardOutput.write(piece)
            try StandardOutput.flush()
        } catch {
            failure = failure ?? error
        }
    }
    if let failure { throw failure }
    try StandardOutput.write("\n")
}

private func line(_ answer: Answer) -> String {
    JSONValue.object(
        JSONObject([
            ("text", .string(answer.text)), ("tokens", .array(answer.ids.map { .init(Int($0)) })),
            ("finish_reason", .string(answer.reason.rawValue)),
        ])
    ).serialized()
}

/// From prompts to token ids, through the chat template or as they stand.
private struct Prompts {
    private let tokenizer: Tokenizer
    private let chats: ChatPrompts?
    private let system: String?
    private let contextLength: Int

    init(_ command: GenerateCommand, _ model: OpenGenerator) throws {
        tokenizer = model.tokenizer
        chats = command.raw || model.tokenizer.chatTemplate == nil ? nil : try ChatPrompts(model.tokenizer)
        system = command.system
        contextLength = model.contextLength
        if system != nil, chats == nil { throw UserError("--system: the model has no chat template", .usage) }
    }

    func ids(_ text: String, _ place: String) throws -> [Int32] {
        guard let chats else { return try checked(tokenizer.encode(text), place) }
        return try checked(chats.ids(opening + [["role": "user", "content": .string(text)]]), place)
    }

    func ids(_ row: JSONValue, _ place: String) throws -> [Int32] {
        if let prompt = row["prompt"]?.string { return try ids(prompt, place) }
        guard let messages = row["messages"]?.array else {
            throw UserError("\(place): neither \"prompt\" (a string) nor \"messages\" (a list)")
        }
        guard let chats else { throw UserError("\(place): \"messages\" need the model's chat template") }
        return try checked(chats.ids(opening + messages, tools: row["tools"]?.array), place)
    }

    private var opening: [JSONValue] { system.map { [["role": "system", "content": .string($0)]] } ?? [] }

    private func checked(_ ids: [Int32], _ place: String) throws -> [Int32] {
        guard !ids.isEmpty else { throw UserError("\(place): empty; give at least one character") }
        guard ids.count < contextLength else {
            throw UserError(
                "\(place): \(counted(ids.count, "token")), which leaves no room in the model's context of \(contextLength)"
            )
        }
        return ids
    }
}

private func readAll(_ descriptor: Int32) throws -> [UInt8] {
    var bytes: [UInt8] = [], buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = read(descriptor, &buffer, buffer.count)
        if count < 0 && errno == EINTR { continue }
        guard count >= 0 else { throw UserError("standard input: \(String(cString: strerror(errno)))") }
        if count == 0 { return bytes }
        bytes += buffer[..<count]
    }
}

/// A conversation over one cache: only what is new of each turn is computed.
func chat(_ command: ChatCommand) throws {
    let model = try OpenGenerator(command.model, weights: command.weights)
    let chats = try ChatPrompts(model.tokenizer)
    let generator = model.generator
    let opening: [JSONValue] = command.system.map { [["role": "system", "content": .string($0)]] } ?? []
    var messages = opening, session = ChatSession()
    SignalFlags.installInterrupt()
    while true {
        if ProgressLine.isTerminal { try ask("> ") }
        guard let line = readLine(), !line.isEmpty else { break }
        if line == "/reset" {
            (messages, session) = (opening, ChatSession())
            continue
        }
        messages.append(["role": "user", "content": .string(line)])
        let ids = try chats.ids(messages)
        guard ids.count < model.contextLength else {
            throw UserError(
                "the talk has \(counted(ids.count, "token")) and the model's context is \(model.contextLength); /reset forgets it"
            )
        }
        _ = SignalFlags.takeInterrupt()
        var failure: (any Error)?
        let answer = generator.reply(
            to: ids, in: session, command.sampling.settings(batch: 1),
            onText: { piece in
                do {
                    try StandardOutput.write(escapedForDisplay(piece, keepsNewlines: true))
                    try StandardOutput.flush()
                } catch { failure = failure ?? error }
            }, shouldStop: { SignalFlags.takeInterrupt() || failure != nil })
        if let failure { throw failure }
        try StandardOutput.write("\n")
        try StandardOutput.flush()
        messages.append(["role": "assistant", "content": .string(answer.text)])
    }
}

private func ask(_ prompt: String) throws {
    try StandardOutput.write(prompt)
    try StandardOutput.flush()
}
