// demo: the recipe behind `make demo`.
import CommandLineInterface
import Diagnostics
import Glibc
import Recipes

func demo(_ command: DemoCommand) throws {
    let status = try SarcasmDemo.run(
        model: command.model, rows: command.data, output: command.output, redo: command.redo,
        dtype: command.dtype.rawValue, commandLine: typedCommand)
    if status != .success { exit(status.rawValue) }
}
