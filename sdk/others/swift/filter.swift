// Keeps orders that became paid; drops all other changes of orders. It is Embedded Swift; memory.c has its heap.

/// The columns `status`, by their tables' IDs: their indexes; nil: not an order.
nonisolated(unsafe) var statusColumns: [Int?] = []
nonisolated(unsafe) var input = UnsafeMutableRawPointer.allocate(byteCount: 1 << 16, alignment: 8)
nonisolated(unsafe) var room = 1 << 16
nonisolated(unsafe) var answer: [UInt32] = []

func word(_ at: UnsafeRawPointer, _ offset: Int = 0) -> Int {
  Int(at.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
}

func isText(_ bytes: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
  bytes.elementsEqual(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
}

/// Returns a text of a table, and moves past it.
func nextText(_ at: inout UnsafeRawPointer) -> UnsafeRawBufferPointer {
  let text = UnsafeRawBufferPointer(start: at + 4, count: word(at))
  at += 4 + text.count
  return text
}

/// Returns the place of `answer`, without the last bytes of its last word.
func answered(withoutLast unused: Int = 0) -> UInt64 {
  answer.withUnsafeBufferPointer { words in
    UInt64(UInt(bitPattern: words.baseAddress)) << 32 | UInt64(4 * words.count - unused)
  }
}

@_expose(wasm, "rowmill_alloc")
@_cdecl("rowmill_alloc")
func alloc(_ size: Int) -> UnsafeMutableRawPointer {
  if size > room {
    input.deallocate()
    room = 2 * size
    input = UnsafeMutableRawPointer.allocate(byteCount: room, alignment: 8)
  }
  return input
}

@_expose(wasm, "rowmill_describe")
@_cdecl("rowmill_describe")
func describe(_ table: UnsafeRawPointer, _ size: Int) -> UInt64 {
  let id = word(table)
  var at = table + 8
  while statusColumns.count <= id { statusColumns.append(nil) }
  statusColumns[id] = nil
  answer.removeAll(keepingCapacity: true)
  let schema = nextText(&at), name = nextText(&at)
  guard isText(schema, "shop") && isText(name, "orders") else {
    answer += [0, 0]  // the rows are kept
    return answered()
  }
  for column in 0..<word(table, 4) {
    at += 8
    if isText(nextText(&at), "status") { statusColumns[id] = column }
    _ = nextText(&at)  // the type
  }
  // 3: certain columns; 15: both images of inserts, updates and deletes; one name of 6 bytes: `stat`, `us`.
  answer += [0, 3, 15, 1, 6, 0x7461_7473, 0x7375]
  return answered(withoutLast: 2)
}

func isPaid(_ image: UnsafeRawPointer?, _ columns: Int, _ column: Int) -> Bool {
  guard let image else { return false }
  let state = image.load(fromByteOffset: 4 + column / 4, as: UInt8.self) >> (column % 4 * 2) & 3
  let ends = image + 4 + ((columns + 3) / 4 + 3) & ~3
  let from = column == 0 ? 0 : word(ends, 4 * (column - 1))
  let value = UnsafeRawBufferPointer(start: ends + 4 * columns + from, count: word(ends, 4 * column) - from)
  return state == 2 && isText(value, "paid")
}

@_expose(wasm, "rowmill_process")
@_cdecl("rowmill_process")
func process(_ batch: UnsafeRawPointer, _ size: Int) -> UInt64 {
  answer.removeAll(keepingCapacity: true)
  answer += [0, 0, 0, 0, 0, 0, 0, 0, 0]  // the status, and the numbers of a verdict; the second one is set below
  for row in 0..<word(batch, 4) {
    let at = batch + word(batch, word(batch, 8) + 4 * row)
    let table = word(at)
    guard table < statusColumns.count, let column = statusColumns[table] else { continue }
    let operation = at.load(fromByteOffset: 4, as: UInt8.self)
    let columns = Int(at.load(fromByteOffset: 6, as: UInt16.self))
    let first = at + 40
    let before = operation == 1 ? nil : first
    let after = operation == 1 ? first : operation == 2 ? first + word(first) : nil
    if isPaid(after, columns, column) && !isPaid(before, columns, column) { answer.append(UInt32(row)) }
  }
  answer[1] = UInt32(answer.count - 9)
  return answered()
}
