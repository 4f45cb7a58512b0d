#include "arrow_rows.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <arrow/ipc/reader.h>
#include <arrow/util/base64.h>
#include <arrow/util/float16.h>
#include <arrow/util/utf8.h>
#include <parquet/arrow/reader.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <new>
#include <string>

namespace {

constexpr int64_t rows_per_batch = 4096;
constexpr size_t bytes_per_delivery = 1 << 20;
constexpr int deepest = 64;

struct Stopped {};

/// Writes values of arrays as JSON.
class JSONLines {
  public:
    JSONLines(na_receiver receiver, void *context) : receiver(receiver), context(context) {}

    arrow::Status append(const arrow::RecordBatch &batch) {
        for (int64_t row = 0; row < batch.num_rows(); row++) {
            text += '{';
            bool first = true;
            for (int i = 0; i < batch.num_columns(); i++) {
                const auto &column = *batch.column(i);
                if (is_null(column, row)) continue;
                ARROW_RETURN_NOT_OK(field(batch.column_name(i), column, row, first, 1));
            }
            text += "}\n";
            if (text.size() >= bytes_per_delivery) deliver();
        }
        return arrow::Status::OK();
    }

    void deliver() {
        if (text.empty()) return;
        if (!receiver(context, text.data(), text.size())) throw Stopped{};
        text.clear();
    }

  private:
    na_receiver receiver;
    void *context;
    std::string text;

    /// A dictionary may hold its nulls among the values.
    static bool is_null(const arrow::Array &array, int64_t i) {
        if (array.IsNull(i)) return true;
        if (array.type_id() == arrow::Type::NA) return true;
        if (array.type_id() != arrow::Type::DICTIONARY) return false;
        const auto &coded = static_cast<const arrow::DictionaryArray &>(array);
        return is_null(*coded.dictionary(), coded.GetValueIndex(i));
    }

    arrow::Status field(const std::string &name, const arrow::Array &array, int64_t i, bool &first, int depth) {
        if (!first) text += ',';
        first = false;
        string(name);
        text += ':';
        return value(array, i, depth);
    }

    template <typename Number>
    void number(Number value) {
        char digits[32];
        auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
        text.append(digits, end);
    }

    /// As Python writes a float, so that rows are those of a file of JSON lines: the fewest digits, always a point or an
    /// exponent, which numbers of 17 digits and those below 0.0001 have. JSON has no infinities and no NaN.
    void floating(double value) {
        if (!std::isfinite(value)) {
            text += "null";
            return;
        }
        double size = std::fabs(value);
        bool is_fixed = size == 0 || (size >= 1e-4 && size < 1e16);
        char digits[32];
        auto format = is_fixed ? std::chars_format::fixed : std::chars_format::scientific;
        std::string_view written(digits, std::to_chars(digits, digits + sizeof digits, value, format).ptr - digits);
        text += written;
        if (is_fixed && written.find('.') == std::string_view::npos) text += ".0";
    }

    void string(std::string_view bytes) {
        static const char digits[] = "0123456789abcdef";
        text += '"';
        for (char byte : bytes) {
            switch (byte) {
            case '"': text += "\\\""; break;
            case '\\': text += "\\\\"; break;
            case '\n': text += "\\n"; break;
            case '\r': text += "\\r"; break;
            case '\t': text += "\\t"; break;
            default:
                if (static_cast<unsigned char>(byte) < 0x20) {
                    text += "\\u00";
                    text += digits[byte >> 4];
                    text += digits[byte & 15];
                } else {
                    text += byte;
                }
            }
        }
        text += '"';
    }

    arrow::Status list(const arrow::Array &values, int64_t start, int64_t length, int depth) {
        text += '[';
        for (int64_t i = 0; i < length; i++) {
            if (i > 0) text += ',';
            if (is_null(values, start + i)) {
                text += "null";
            } else {
                ARROW_RETURN_NOT_OK(value(values, start + i, depth + 1));
            }
        }
        text += ']';
        return arrow::Status::OK();
    }

    template <typename ListArray>
    arrow::Status list(const arrow::Array &array, int64_t i, int depth) {
        const auto &lists = static_cast<const ListArray &>(array);
        return list(*lists.values(), lists.value_offset(i), lists.value_length(i), depth);
    }

    template <typename TypedArray>
    auto typed(const arrow::Array &array, int64_t i) {
        return static_cast<const TypedArray &>(array).Value(i);
    }

    template <typename TypedArray>
    void view(const arrow::Array &array, int64_t i) {
        string(static_cast<const TypedArray &>(array).GetView(i));
    }

    /// Some programs write texts without saying that they are; what is no text is written in base64.
    template <typename TypedArray>
    void bytes(const arrow::Array &array, int64_t i) {
        std::string_view bytes = static_cast<const TypedArray &>(array).GetView(i);
        if (arrow::util::ValidateUTF8(bytes)) {
            string(bytes);
        } else {
            string(arrow::util::base64_encode(bytes));
        }
    }

    arrow::Status structure(const arrow::StructArray &array, int64_t i, int depth) {
        text += '{';
        bool first = true;
        for (int f = 0; f < array.num_fields(); f++) {
            const auto &column = *array.field(f);
            if (is_null(column, i)) continue;
            ARROW_RETURN_NOT_OK(field(array.type()->field(f)->name(), column, i, first, depth + 1));
        }
        text += '}';
        return arrow::Status::OK();
    }

    /// Keys must be texts, as JSON's are.
    arrow::Status map(const arrow::MapArray &array, int64_t i, int depth) {
        if (array.keys()->type_id() != arrow::Type::STRING) {
            return arrow::Status::NotImplemented("a map with keys of type ", array.keys()->type()->ToString());
        }
        const auto &keys = static_cast<const arrow::StringArray &>(*array.keys());
        text += '{';
        bool first = true;
        for (int64_t at = array.value_offset(i); at < array.value_offset(i) + array.value_length(i); at++) {
            if (is_null(*array.items(), at)) continue;
            ARROW_RETURN_NOT_OK(field(std::string(keys.GetView(at)), *array.items(), at, first, depth + 1));
        }
        text += '}';
        return arrow::Status::OK();
    }

    /// A value that is not null.
    arrow::Status value(const arrow::Array &array, int64_t i, int depth) {
        if (depth > deepest) return arrow::Status::Invalid("columns nested deeper than ", deepest);
        switch (array.type_id()) {
        case arrow::Type::BOOL: text += typed<arrow::BooleanArray>(array, i) ? "true" : "false"; break;
        case arrow::Type::INT8: number(int(typed<arrow::Int8Array>(array, i))); break;
        case arrow::Type::INT16: number(typed<arrow::Int16Array>(array, i)); break;
        case arrow::Type::INT32: number(typed<arrow::Int32Array>(array, i)); break;
        case arrow::Type::INT64: number(typed<arrow::Int64Array>(array, i)); break;
        case arrow::Type::UINT8: number(int(typed<arrow::UInt8Array>(array, i))); break;
        case arrow::Type::UINT16: number(typed<arrow::UInt16Array>(array, i)); break;
        case arrow::Type::UINT32: number(typed<arrow::UInt32Array>(array, i)); break;
        case arrow::Type::UINT64: number(typed<arrow::UInt64Array>(array, i)); break;
        case arrow::Type::HALF_FLOAT: {
            floating(arrow::util::Float16::FromBits(typed<arrow::HalfFloatArray>(array, i)).ToFloat());
            break;
        }
        case arrow::Type::FLOAT: floating(typed<arrow::FloatArray>(array, i)); break;
        case arrow::Type::DOUBLE: floating(typed<arrow::DoubleArray>(array, i)); break;
        case arrow::Type::STRING: view<arrow::StringArray>(array, i); break;
        case arrow::Type::LARGE_STRING: view<arrow::LargeStringArray>(array, i); break;
        case arrow::Type::STRING_VIEW: view<arrow::StringViewArray>(array, i); break;
        case arrow::Type::BINARY: bytes<arrow::BinaryArray>(array, i); break;
        case arrow::Type::LARGE_BINARY: bytes<arrow::LargeBinaryArray>(array, i); break;
        case arrow::Type::LIST: return list<arrow::ListArray>(array, i, depth);
        case arrow::Type::LARGE_LIST: return list<arrow::LargeListArray>(array, i, depth);
        case arrow::Type::FIXED_SIZE_LIST: return list<arrow::FixedSizeListArray>(array, i, depth);
        case arrow::Type::STRUCT: return structure(static_cast<const arrow::StructArray &>(array), i, depth);
        case arrow::Type::MAP: return map(static_cast<const arrow::MapArray &>(array), i, depth);
        case arrow::Type::DICTIONARY: {
            const auto &coded = static_cast<const arrow::DictionaryArray &>(array);
            return value(*coded.dictionary(), coded.GetValueIndex(i), depth + 1);
        }
        case arrow::Type::EXTENSION:
            return value(*static_cast<const arrow::ExtensionArray &>(array).storage(), i, depth + 1);
        case arrow::Type::DATE32:
        case arrow::Type::DATE64:
        case arrow::Type::TIME32:
        case arrow::Type::TIME64:
        case arrow::Type::TIMESTAMP:
        case arrow::Type::DURATION:
        case arrow::Type::DECIMAL32:
        case arrow::Type::DECIMAL64:
        case arrow::Type::DECIMAL128:
        case arrow::Type::DECIMAL256: {
            ARROW_ASSIGN_OR_RAISE(auto scalar, array.GetScalar(i));
            string(scalar->ToString());
            break;
        }
        default: return arrow::Status::NotImplemented("a column of type ", array.type()->ToString());
        }
        return arrow::Status::OK();
    }
};

/// What a library hands out may be inconsistent where the file is damaged: offsets are checked before they are followed.
arrow::Status append(JSONLines &lines, const std::shared_ptr<arrow::RecordBatch> &batch) {
    ARROW_RETURN_NOT_OK(batch->ValidateFull());
    for (int64_t start = 0; start < batch->num_rows(); start += rows_per_batch) {
        ARROW_RETURN_NOT_OK(lines.append(*batch->Slice(start, rows_per_batch)));
    }
    return arrow::Status::OK();
}

arrow::Status drain(arrow::RecordBatchReader &reader, JSONLines &lines) {
    while (true) {
        std::shared_ptr<arrow::RecordBatch> batch;
        ARROW_RETURN_NOT_OK(reader.ReadNext(&batch));
        if (!batch) return arrow::Status::OK();
        ARROW_RETURN_NOT_OK(append(lines, batch));
    }
}

arrow::Status read(const char *path, int32_t format, JSONLines &lines) {
    arrow::util::InitializeUTF8();
    ARROW_ASSIGN_OR_RAISE(auto file, arrow::io::ReadableFile::Open(path));
    if (format == na_parquet) {
        parquet::arrow::FileReaderBuilder builder;
        ARROW_RETURN_NOT_OK(builder.Open(file));
        parquet::ArrowReaderProperties properties(/*use_threads=*/false);
        properties.set_batch_size(rows_per_batch);
        ARROW_ASSIGN_OR_RAISE(auto reader, builder.properties(properties)->Build());
        // One row group at a time: a list of dictionary-coded texts cannot be read across two, which have two dictionaries.
        for (int group = 0; group < reader->num_row_groups(); group++) {
            ARROW_ASSIGN_OR_RAISE(auto batches, reader->GetRecordBatchReader({group}));
            ARROW_RETURN_NOT_OK(drain(*batches, lines));
        }
        return arrow::Status::OK();
    }
    auto options = arrow::ipc::IpcReadOptions::Defaults();
    options.use_threads = false;
    if (format == na_arrow_stream) {
        ARROW_ASSIGN_OR_RAISE(auto reader, arrow::ipc::RecordBatchStreamReader::Open(file, options));
        return drain(*reader, lines);
    }
    ARROW_ASSIGN_OR_RAISE(auto reader, arrow::ipc::RecordBatchFileReader::Open(file, options));
    for (int i = 0; i < reader->num_record_batches(); i++) {
        ARROW_ASSIGN_OR_RAISE(auto batch, reader->ReadRecordBatch(i));
        ARROW_RETURN_NOT_OK(append(lines, batch));
    }
    return arrow::Status::OK();
}

void tell(std::string_view message, char *error, size_t room) {
    if (room == 0) return;
    size_t count = std::min(message.size(), room - 1);
    std::memcpy(error, message.data(), count);
    error[count] = 0;
}

}  // namespace

int32_t na_json_lines(
    const char *path, int32_t format, na_receiver receiver, void *context, char *error, size_t error_room) {
    try {
        JSONLines lines(receiver, context);
        arrow::Status status = read(path, format, lines);
        if (status.ok()) {
            lines.deliver();
            return na_ok;
        }
        tell(status.message(), error, error_room);
        return status.IsOutOfMemory() ? na_out_of_memory : na_invalid;
    } catch (const Stopped &) {
        return na_stopped;
    } catch (const std::bad_alloc &) {
        tell("out of memory", error, error_room);
        return na_out_of_memory;
    } catch (const std::exception &exception) {
        tell(exception.what(), error, error_room);
        return na_invalid;
    } catch (...) {
        tell("an error without a name", error, error_room);
        return na_internal;
    }
}

const char *na_arrow_version(void) {
    static const std::string version = arrow::GetBuildInfo().version_string;
    return version.c_str();
}
