// Keeps orders that became paid; drops all other changes of orders. It needs no runtime (`-betterC`).
module filter;

import ldc.attributes : llvmAttr;

@nogc nothrow:

pragma(LDC_intrinsic, "llvm.wasm.memory.grow.i32") int growMemory(int memory, int pages);
pragma(LDC_intrinsic, "llvm.wasm.memory.size.i32") int memoryPages(int memory);
extern (C) extern __gshared ubyte __heap_base;

/// The columns `status`, by their tables' IDs: their indexes, plus 1. 0: not an order.
__gshared uint[1 << 17] statusColumns;

uint word(const(ubyte)* at) {
    return *cast(const(uint)*) at;
}

bool isText(const(ubyte)[] bytes, string text) {
    if (bytes.length != text.length)
        return false;
    foreach (i, c; text)
        if (bytes[i] != c)
            return false;
    return true;
}

// The memory after the module's own has the input of a call, and then the answer, which is shorter than the input and 64 KiB.

ubyte* input() {
    return cast(ubyte*)((cast(size_t)&__heap_base + 7) & ~7);
}

struct Answer {
    uint* words;
    uint count;

@nogc nothrow:
    this(uint inputLen) {
        words = cast(uint*)(input + ((inputLen + 7) & ~7));
    }

    void put(const uint[] values...) {
        foreach (value; values)
            words[count++] = value;
    }

    ulong returned(uint bytesMore = 0) const {
        return cast(ulong) cast(size_t) words << 32 | (4 * count + bytesMore);
    }
}

@llvmAttr("wasm-export-name", "rowmill_alloc") extern (C) ubyte* alloc(uint len) {
    const end = cast(size_t) input + 2 * len + 0x1_0000, have = cast(size_t) memoryPages(0) << 16;
    if (end > have && growMemory(0, cast(int)((end - have + 0xffff) >> 16)) == -1)
        assert(false, "out of memory");
    return input;
}

const(ubyte)[] nextText(ref const(ubyte)* at) {
    auto text = at[4 .. 4 + word(at)];
    at += 4 + text.length;
    return text;
}

@llvmAttr("wasm-export-name", "rowmill_describe") extern (C) ulong describe(const(ubyte)* at, uint len) {
    auto answer = Answer(len);
    const id = word(at), columns = word(at + 4);
    at += 8;
    const schema = nextText(at), name = nextText(at);
    statusColumns[id] = 0;
    if (!schema.isText("shop") || !name.isText("orders")) {
        answer.put(0, 0); // the rows are kept
        return answer.returned;
    }
    foreach (column; 0 .. columns) {
        at += 8;
        if (nextText(at).isText("status"))
            statusColumns[id] = column + 1;
        nextText(at); // the type
    }
    // 3: certain columns; 15: both images of inserts, updates and deletes.
    static immutable wanted = "status";
    answer.put(0, 3, 15, 1, cast(uint) wanted.length);
    foreach (i, c; wanted)
        (cast(char*)(answer.words + answer.count))[i] = c;
    return answer.returned(cast(uint) wanted.length);
}

bool isPaid(const(ubyte)* image, uint columns, uint column) {
    if (image is null || (image[4 + column / 4] >> column % 4 * 2 & 3) != 2)
        return false;
    const ends = image + 4 + ((columns + 3) / 4 + 3 & ~3), data = ends + 4 * columns;
    const from = column == 0 ? 0 : word(ends + 4 * (column - 1));
    return data[from .. word(ends + 4 * column)].isText("paid");
}

@llvmAttr("wasm-export-name", "rowmill_process") extern (C) ulong process(const(ubyte)* batch, uint len) {
    enum insert = 1, update = 2;
    auto answer = Answer(len);
    uint kept;
    answer.put(0, 0, 0, 0, 0, 0, 0, 0, 0); // the status, and the numbers of a verdict; the second one is set below
    foreach (row; 0 .. word(batch + 4)) {
        const at = batch + word(batch + word(batch + 8) + 4 * row);
        const column = statusColumns[word(at)];
        if (column == 0)
            continue;
        const operation = at[4], columns = *cast(const(ushort)*)(at + 6), first = at + 40;
        const before = operation == insert ? null : first;
        const after = operation == insert ? first : operation == update ? first + word(first) : null;
        if (isPaid(after, columns, column - 1) && !isPaid(before, columns, column - 1)) {
            answer.put(row);
            kept++;
        }
    }
    answer.words[1] = kept;
    return answer.returned;
}
