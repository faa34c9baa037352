/*
 * The launcher: a process that has just been exec'd becomes the program whose
 * image the plan describes.
 *
 * The phases, and what exists in each:
 *
 *   caller.c  look at the caller   the kernel's stack, the launcher's own text; no
 *                                  C library, no TLS, no heap, no writable data but
 *                                  the stack
 *   store.c   open the store       + its descriptor
 *   ask.c     read the plan        + the plan, mapped below the launcher
 *             ask what must be true
 *   cache.c                        what another /etc/ld.so.cache answers
 *   map.c     map                  + the image; the vDSO has moved
 *             register             + TLS, as far as the kernel knows
 *             correct the words
 *   warm.c    what a warm image needs besides
 *   leave.c   leave                the image, the stack and the vDSO; nothing else
 *
 * become.c puts them together; normal.c has the way back, by execve. There are three ways
 * in, which start_amd64.S enters: launcher_file in file.c, the exec of a launcher file (also
 * by a link in a directory of PATH, shim.c, or as the kernel's interpreter of a program,
 * given.c), launcher_front in front.c and launcher_interp in interp.c. All are one
 * translation unit, of which nothing is left that is not needed.
 *
 * Until the jump in leave() every doubt is answered by execve of the program,
 * which discards all that was done. Where an exec would only come back here,
 * everything is undone instead, and the program started as an exec would have.
 * The launcher decides nothing that the plan has not decided: it validates, then
 * carries out.
 */
#include "caller.c"
#include "store.c"
#include "cache.c"
#include "ask.c"
#include "warm.c"
#include "map.c"
#include "leave.c"
#include "become.c"
#include "normal.c"
#include "front.c"
#include "shim.c"
#include "given.c"
#include "file.c"
#include "interp.c"
