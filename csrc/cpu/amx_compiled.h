// Which products of tile registers (AMX) this file is compiled with. Clang 14 leaves an underscore out of the names by
// which a compiler says so.
#pragma once

#if defined(__AMX_TILE__) || defined(__AMXTILE__)
#define CMSEI_AMX_TILE
#endif
#if defined(__AMX_BF16__) || defined(__AMXBF16__)
#define CMSEI_AMX_BF16
#endif
#if defined(__AMX_INT8__) || defined(__AMXINT8__)
#define CMSEI_AMX_INT8
#endif
