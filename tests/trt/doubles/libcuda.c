/* A stand-in for the CUDA driver's library where there is no GPU: memory is the host's, every call is a line in $EDGESEG_FAKE_CUDA_CALLS.
   Contexts are as the driver has them: one a device, a stack of current ones, and what was made in one is refused in another (400) or
   without any (201). It proves order and arguments of calls, never a figure. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fails(const char *name) {
  const char *wanted = getenv("EDGESEG_FAKE_CUDA_FAILS");
  return wanted && !strcmp(wanted, name);
}
static int note(const char *name) {
  const char *path = getenv("EDGESEG_FAKE_CUDA_CALLS");
  if (path) { FILE *f = fopen(path, "a"); fprintf(f, "%s\n", name); fclose(f); }
  return fails(name) ? 2 : 0;
}
#define NOTE int status = note(__func__); if (status) return status

#define MOST 16
static int retained[MOST], depth;
static void *stack[64];
static void *context(int device) { return (void *)(retained + device); }
static void *now(void) { return depth ? stack[depth - 1] : 0; }

/* A handle remembers the context it was made in. */
struct made { void *in; };
static void *handle(void) { struct made *h = malloc(sizeof *h); h->in = now(); return h; }
static int wrong(void *h) { return h && (long)h > 0x10000 && ((struct made *)h)->in != now(); }
#define INSIDE NOTE; if (!depth) return 201
#define OF(h) INSIDE; if (wrong(h)) return 400

int cuInit(unsigned flags) { (void)flags; return fails("cuInit") ? 100 : note("cuInit"); }
int cuGetErrorString(int error, const char **text) { *text = error == 100 ? "no CUDA-capable device is detected" : "out of memory"; return 0; }
int cuDeviceGetCount(int *n) { const char *c = getenv("EDGESEG_FAKE_CUDA_GPUS"); *n = c ? atoi(c) : 1; return 0; }
int cuDriverGetVersion(int *v) { *v = 12080; return 0; }
int cuDeviceGet(int *d, int i) { NOTE; *d = i; return 0; }
int cuDeviceGetName(char *name, int n, int d) { (void)d; strncpy(name, "Stand-in GPU", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { (void)d; *v = a == 75 ? 9 : 0; return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { (void)d; *n = (size_t)80 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { NOTE; retained[d]++; *c = context(d); return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { NOTE; return retained[d]-- > 0 ? 0 : 201; }
int cuCtxPushCurrent_v2(void *c) { NOTE; stack[depth++] = c; return 0; }
int cuCtxPopCurrent_v2(void **c) { NOTE; if (!depth) return 201; *c = stack[--depth]; return 0; }
int cuCtxGetCurrent(void **c) { *c = now(); return 0; }
int cuMemAlloc_v2(void **p, size_t n) { INSIDE; *p = malloc(n); return 0; }
int cuMemFree_v2(void *p) { INSIDE; free(p); return 0; }
int cuMemHostAlloc(void **p, size_t n, unsigned f) { (void)f; INSIDE; *p = malloc(n); return 0; }
int cuMemFreeHost(void *p) { INSIDE; free(p); return 0; }
int cuMemcpyHtoDAsync_v2(void *d, const void *s, size_t n, void *st) { OF(st); memcpy(d, s, n); return 0; }
int cuMemcpyDtoHAsync_v2(void *d, const void *s, size_t n, void *st) { OF(st); memcpy(d, s, n); return 0; }
int cuStreamCreate(void **s, unsigned f) { INSIDE; if (f != 1) return 1; *s = handle(); return 0; }
int cuStreamDestroy_v2(void *s) { OF(s); free(s); return 0; }
int cuStreamSynchronize(void *s) { OF(s); return 0; }
int cuEventCreate(void **e, unsigned f) { (void)f; INSIDE; *e = handle(); return 0; }
int cuEventDestroy_v2(void *e) { OF(e); free(e); return 0; }
int cuEventRecord(void *e, void *s) { OF(e); if (wrong(s)) return 400; return 0; }
int cuEventSynchronize(void *e) { OF(e); return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { OF(a); if (wrong(b)) return 400; *ms = 0.0f; return 0; }
int cuStreamBeginCapture_v2(void *s, int mode) { OF(s); return mode == 2 ? 0 : 1; }
int cuStreamEndCapture(void *s, void **g) { OF(s); *g = handle(); return 0; }
int cuGraphInstantiateWithFlags(void **x, void *g, unsigned long long f) { (void)f; OF(g); *x = handle(); return 0; }
int cuGraphDestroy(void *g) { OF(g); free(g); return 0; }
int cuGraphLaunch(void *x, void *s) { OF(x); if (wrong(s)) return 400; return 0; }
int cuGraphExecDestroy(void *x) { OF(x); free(x); return 0; }
