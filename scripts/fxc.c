// Compiles HLSL with Microsoft's FXC, as wgpu does it where there is no DXC. A Windows program: see scripts/dx12.sh.
//
// usage: fxc LIBRARY SECONDS
//
// stdin has a line `ENTRY BYTES` and the text, again and again. Each answer is a line `ok`, or `refused BYTES` and the message. Where a text
// takes longer than SECONDS, the answer is `slow`, and the program ends.
#include <windows.h>
#include <fcntl.h>
#include <io.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The methods of ID3DBlob.
typedef struct Blob {
  struct {
    HRESULT(WINAPI *query)(struct Blob *, const void *, void **);
    ULONG(WINAPI *add)(struct Blob *);
    ULONG(WINAPI *release)(struct Blob *);
    void *(WINAPI *pointer)(struct Blob *);
    SIZE_T(WINAPI *size)(struct Blob *);
  } const *methods;
} Blob;
typedef HRESULT(WINAPI *Compile)(const void *, SIZE_T, const char *, const void *, void *, const char *, const char *, UINT, UINT, Blob **, Blob **);

#define ENABLE_STRICTNESS (1 << 11)

static Compile compile;
static char entry[256], *text;
static size_t bytes;
static Blob *code, *said;

static DWORD WINAPI work(void *unused) {
  (void)unused;
  return (DWORD)compile(text, bytes, NULL, NULL, NULL, entry, "cs_5_1", ENABLE_STRICTNESS, 0, &code, &said);
}

int main(int count, char **arguments) {
  HMODULE library = count == 3 ? LoadLibraryA(arguments[1]) : NULL;
  compile = library ? (Compile)(void *)GetProcAddress(library, "D3DCompile") : NULL;
  if (!compile) {
    fprintf(stderr, "there is no FXC in %s\n", count == 3 ? arguments[1] : "the arguments");
    return 3;
  }
  _setmode(_fileno(stdin), _O_BINARY);
  _setmode(_fileno(stdout), _O_BINARY);
  while (scanf("%255s %zu", entry, &bytes) == 2 && getchar() == '\n') {
    text = malloc(bytes + 1);
    if (!text || fread(text, 1, bytes, stdin) != bytes) return 3;
    code = said = NULL;
    DWORD result;
    HANDLE thread = CreateThread(NULL, 16 << 20, work, NULL, 0, NULL);
    if (WaitForSingleObject(thread, 1000 * atoi(arguments[2])) != WAIT_OBJECT_0) {
      puts("slow");
      fflush(stdout);
      _exit(0);
    }
    GetExitCodeThread(thread, &result);
    CloseHandle(thread);
    if ((HRESULT)result >= 0) {
      puts("ok");
    } else {
      size_t length = said ? said->methods->size(said) : 0;
      printf("refused %zu\n", length);
      if (length) fwrite(said->methods->pointer(said), 1, length, stdout);
    }
    fflush(stdout);
    if (code) code->methods->release(code);
    if (said) said->methods->release(said);
    free(text);
  }
  return 0;
}
