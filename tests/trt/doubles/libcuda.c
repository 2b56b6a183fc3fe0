/* A stand-in for the CUDA driver's library where there is no GPU: memory is the host's, every call is a line in $EDGESEG_FAKE_CUDA_CALLS.
   It proves order and arguments of calls, never a figure. */
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

static long handles = 0x1000;
static void *handle(void) { return (void *)(handles += 16); }

int cuInit(unsigned flags) { (void)flags; return fails("cuInit") ? 100 : note("cuInit"); }
int cuGetErrorString(int error, const char **text) { *text = error == 100 ? "no CUDA-capable device is detected" : "out of memory"; return 0; }
int cuDeviceGetCount(int *n) { const char *c = getenv("EDGESEG_FAKE_CUDA_GPUS"); *n = c ? atoi(c) : 1; return 0; }
int cuDriverGetVersion(int *v) { *v = 12080; return 0; }
int cuDeviceGet(int *d, int i) { NOTE; *d = i; return 0; }
int cuDeviceGetName(char *name, int n, int d) { (void)d; strncpy(name, "Stand-in GPU", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { (void)d; *v = a == 75 ? 9 : 0; return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { (void)d; *n = (size_t)80 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; NOTE; *c = handle(); return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { (void)d; NOTE; return 0; }
int cuCtxPushCurrent_v2(void *c) { (void)c; NOTE; return 0; }
int cuCtxPopCurrent_v2(void **c) { NOTE; *c = 0; return 0; }
int cuMemAlloc_v2(void **p, size_t n) { NOTE; *p = malloc(n); return 0; }
int cuMemFree_v2(void *p) { NOTE; free(p); return 0; }
int cuMemHostAlloc(void **p, size_t n, unsigned f) { (void)f; NOTE; *p = malloc(n); return 0; }
int cuMemFreeHost(void *p) { NOTE; free(p); return 0; }
int cuMemcpyHtoDAsync_v2(void *d, const void *s, size_t n, void *st) { (void)st; NOTE; memcpy(d, s, n); return 0; }
int cuMemcpyDtoHAsync_v2(void *d, const void *s, size_t n, void *st) { (void)st; NOTE; memcpy(d, s, n); return 0; }
int cuStreamCreate(void **s, unsigned f) { NOTE; if (f != 1) return 1; *s = handle(); return 0; }
int cuStreamDestroy_v2(void *s) { (void)s; NOTE; return 0; }
int cuStreamSynchronize(void *s) { (void)s; NOTE; return 0; }
int cuEventCreate(void **e, unsigned f) { (void)f; NOTE; *e = handle(); return 0; }
int cuEventDestroy_v2(void *e) { (void)e; NOTE; return 0; }
int cuEventRecord(void *e, void *s) { (void)e; (void)s; NOTE; return 0; }
int cuEventSynchronize(void *e) { (void)e; NOTE; return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { (void)a; (void)b; NOTE; *ms = 0.0f; return 0; }
int cuStreamBeginCapture_v2(void *s, int mode) { (void)s; NOTE; return mode == 2 ? 0 : 1; }
int cuStreamEndCapture(void *s, void **g) { (void)s; NOTE; *g = handle(); return 0; }
int cuGraphInstantiateWithFlags(void **x, void *g, unsigned long long f) { (void)g; (void)f; NOTE; *x = handle(); return 0; }
int cuGraphDestroy(void *g) { (void)g; NOTE; return 0; }
int cuGraphLaunch(void *x, void *s) { (void)x; (void)s; NOTE; return 0; }
int cuGraphExecDestroy(void *x) { (void)x; NOTE; return 0; }
