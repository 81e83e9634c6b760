/* The functions of a C library that Embedded Swift calls. Memory is never freed: the module allocates only to make its lists
 * longer. */
#include <stddef.h>
#include <stdint.h>

extern unsigned char __heap_base;
static uintptr_t heap;

int posix_memalign(void **out, size_t alignment, size_t size) {
    if (!heap) heap = (uintptr_t)&__heap_base;
    uintptr_t at = (heap + alignment - 1) & ~(uintptr_t)(alignment - 1), end = at + size;
    uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
    if (end < at) return 12;
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (size_t)-1) return 12;
    heap = end;
    *out = (void *)at;
    return 0;
}
void free(void *at) { (void)at; }
