//go:build !wasip1

package rowmill

// Stand-ins for the functions that the engine offers, so that editors and `go vet` can check a project without
// GOOS=wasip1.

const noEngine = "there is no engine: the module was not built with GOOS=wasip1"

func hostSink(at *byte, size uint32) uint32 { panic(noEngine) }

func hostRecipe(at *byte, size uint32) uint32 { panic(noEngine) }

func hostSelect(at *byte, size uint32, to *uint32) uint32 { panic(noEngine) }

func hostLog(level uint32, at *byte, size uint32) { panic(noEngine) }

func hostCount(at *byte, size uint32, n uint64) { panic(noEngine) }

func hostNow() int64 { panic(noEngine) }

func hostEnv(at *byte, size uint32, to *byte, room uint32) uint32 { panic(noEngine) }
