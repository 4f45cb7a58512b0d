// What a template says: the tree between parser and compiler.

indirect enum Expression {
    case constant(Value)
    case name(String)
    /// `namespace.attribute` as a target of `set`.
    case namespaceAttribute(String, String)
    case list([Expression])
    case tuple([Expression])
    case dict([(key: Expression, value: Expression)])
    case attribute(Expression, String)
    case item(Expression, Expression)
    case slice(Expression?, Expression?, Expression?)
    case call(Expression, CallArguments)
    /// Input nil: the text of a filter block or block set.
    case filter(Expression?, String, CallArguments, line: Int)
    case test(Expression, String, CallArguments, line: Int)
    case unary(UnaryOperator, Expression)
    case binary(BinaryOperator, Expression, Expression)
    case concat([Expression])
    case compare(Expression, [(ComparisonOperator, Expression)])
    case and(Expression, Expression)
    case or(Expression, Expression)
    case not(Expression)
    case conditional(test: Expression, then: Expression, otherwise: Expression?)
}

struct CallArguments {
    var positional: [Expression] = []
    var keywords: [(name: String, value: Expression)] = []
    var starred: Expression?
    var doubleStarred: Expression?

    var isEmpty: Bool { positional.isEmpty && keywords.isEmpty && starred == nil && doubleStarred == nil }
    var all: [Expression] { positional + keywords.map(\.value) + [starred, doubleStarred].compactMap { $0 } }
}

enum UnaryOperator { case plus, minus }
enum BinaryOperator: String {
    case add = "+"
    case subtract = "-"
    case multiply = "*"
    case divide = "/"
    case floorDivide = "//"
    case modulo = "%"
    case power = "**"
}
enum ComparisonOperator { case equal, notEqual, less, lessOrEqual, greater, greaterOrEqual, isIn, notIn }

struct Signature {
    var names: [String] = []
    /// Of the last parameters.
    var defaults: [Expression] = []
}

indirect enum Statement {
    case text(String)
    case output(Expression, line: Int)
    case forLoop(ForLoop)
    case ifElse([(test: Expression, body: [Statement])], otherwise: [Statement], line: Int)
    case set(target: Expression, value: Expression, line: Int)
    case setBlock(target: Expression, filter: Expression?, body: [Statement], line: Int)
    case macro(name: String, Signature, body: [Statement], line: Int)
    case callBlock(call: Expression, Signature, body: [Statement], line: Int)
    case filterBlock(Expression, body: [Statement], line: Int)
    case with(targets: [Expression], values: [Expression], body: [Statement], line: Int)
    case generation(body: [Statement], line: Int)
    case block(name: String, body: [Statement], line: Int)
    case breakLoop(line: Int)
    case continueLoop(line: Int)
}

struct ForLoop {
    var target: Expression
    var iterable: Expression
    var test: Expression?
    var isRecursive: Bool
    var body: [Statement]
    var otherwise: [Statement]
    var line: Int
}
