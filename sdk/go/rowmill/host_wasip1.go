package rowmill

// The functions that the engine offers: wit/core-module.md.

//go:wasmimport rowmill sink
func hostSink(at *byte, size uint32) uint32

//go:wasmimport rowmill recipe
func hostRecipe(at *byte, size uint32) uint32

//go:wasmimport rowmill select
func hostSelect(at *byte, size uint32, to *uint32) uint32

//go:wasmimport rowmill log
func hostLog(level uint32, at *byte, size uint32)

//go:wasmimport rowmill count
func hostCount(at *byte, size uint32, n uint64)

//go:wasmimport rowmill now
func hostNow() int64

//go:wasmimport rowmill env
func hostEnv(at *byte, size uint32, to *byte, room uint32) uint32
