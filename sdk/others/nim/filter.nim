## Keeps orders that became paid; drops all other changes of orders.

import std/tables

{.pragma: exported, cdecl, codegenDecl: "__attribute__((export_name(\"$2\"))) $1 $2$3".}

type Bytes = ptr UncheckedArray[byte]

var
  input: seq[byte]
  answer: string
  statusColumns: Table[uint32, uint32] ## the indexes of the columns `status`, by their tables' IDs

proc nimMain() {.importc: "NimMain", cdecl.}
proc start() {.exportc, cdecl, codegenDecl: "__attribute__((constructor)) $1 $2$3".} =
  nimMain()

proc plus(at: Bytes, offset: uint32): Bytes =
  cast[Bytes](addr at[offset])

proc word(at: Bytes, offset = 0'u32): uint32 =
  copyMem(addr result, at.plus(offset), 4)

proc text(at: Bytes, len: uint32): string =
  result = newString(len)
  if len > 0: copyMem(addr result[0], at, len)

proc nextText(at: var Bytes): string =
  ## Returns a text of a table, and moves past it.
  result = text(at.plus(4), at.word)
  at = at.plus(4 + result.len.uint32)

proc put(words: varargs[uint32]) =
  for word in words:
    for shift in [0, 8, 16, 24]: answer.add char(word shr shift and 0xff)

template answered(body: untyped): uint64 =
  ## Runs code that writes the answer. An exception is the failure of the call.
  answer.setLen 0
  try:
    body
  except Exception as error:
    answer.setLen 0
    put 1
    answer.add error.msg
  cast[uint64](addr answer[0]) shl 32 or answer.len.uint64

proc alloc(len: uint32): Bytes {.exported, exportc: "rowmill_alloc".} =
  if input.len < len.int + 8: input = newSeq[byte](2 * len.int + 8)
  cast[Bytes]((cast[uint](addr input[0]) + 7) and not 7'u)

proc describe(table: Bytes, len: uint32): uint64 {.exported, exportc: "rowmill_describe".} =
  answered:
    let (id, columns) = (table.word, table.word(4))
    var at = table.plus(8)
    let (schema, name) = (at.nextText, at.nextText)
    statusColumns.del id
    if (schema, name) == ("shop", "orders"):
      for column in 0 ..< columns:
        at = at.plus(8)
        if at.nextText == "status": statusColumns[id] = column
        discard at.nextText # the type
      # 3: certain columns; 15: both images of inserts, updates and deletes.
      put 0, 3, 15, 1, "status".len
      answer.add "status"
    else:
      put 0, 0 # the rows are kept

proc isPaid(image: Bytes, columns, column: uint32): bool =
  if image == nil or (image[4 + column div 4] shr (column mod 4 * 2) and 3) != 2: return false
  let
    ends = image.plus(4 + ((columns + 3) div 4 + 3 and not 3'u32))
    first = if column == 0: 0'u32 else: ends.word(4 * (column - 1))
  text(ends.plus(4 * columns + first), ends.word(4 * column) - first) == "paid"

proc process(batch: Bytes, len: uint32): uint64 {.exported, exportc: "rowmill_process".} =
  answered:
    var kept: seq[uint32]
    for row in 0'u32 ..< batch.word(4):
      let
        at = batch.plus(batch.word(batch.word(8) + 4 * row))
        column = statusColumns.getOrDefault(at.word, high(uint32))
      if column == high(uint32): continue
      let
        operation = at[4] # 1: insert, 2: update, 3: delete
        columns = at[6].uint32 + 256 * at[7].uint32
        first = at.plus(40)
        before = if operation == 1: nil else: first
        after = if operation == 1: first elif operation == 2: first.plus(first.word) else: nil
      if isPaid(after, columns, column) and not isPaid(before, columns, column): kept.add row
    put 0, kept.len.uint32, 0, 0, 0, 0, 0, 0, 0 # the status, and the numbers of a verdict
    put kept
