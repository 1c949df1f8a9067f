// The calls of MPI that mpi.rs makes. The types and constants of MPI differ from library to library and are in its header alone, so C makes
// the calls. Each function returns MPI's code, which is 0 after a success. One thread makes all calls.
#include <mpi.h>
#include <stdint.h>
#include <string.h>

// A request is a pointer in some libraries and an integer in others. Rust keeps it as a word.
_Static_assert(sizeof(MPI_Request) <= sizeof(uint64_t), "a request of MPI fits a word");

// The ranks, as a communicator of their own, so that no other messages of the process are mixed with these.
static MPI_Comm ranks;
// The message that downhill_mpi_probe has found, until downhill_mpi_receive takes it.
static MPI_Message message;

static const int TAG = 7;

static void keep(uint64_t *word, MPI_Request request) {
  *word = 0;
  memcpy(word, &request, sizeof request);
}

int downhill_mpi_initialized(int *begun) { return MPI_Initialized(begun); }

int downhill_mpi_init(void) {
  int level;
  return MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
}

static int place(MPI_Comm comm, int *rank, int *size) {
  int code = MPI_Comm_rank(comm, rank);
  return code != MPI_SUCCESS ? code : MPI_Comm_size(comm, size);
}

// Sets this process's place among all processes.
int downhill_mpi_place(int *rank, int *size) {
  int code = MPI_Comm_dup(MPI_COMM_WORLD, &ranks);
  if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(ranks, MPI_ERRORS_RETURN);
  return code != MPI_SUCCESS ? code : place(ranks, rank, size);
}

// Sets this process's place among the processes of its machine.
int downhill_mpi_local(int *rank, int *size) {
  MPI_Comm machine;
  int code = MPI_Comm_split_type(ranks, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  if (code == MPI_SUCCESS) code = place(machine, rank, size);
  return code != MPI_SUCCESS ? code : MPI_Comm_free(&machine);
}

// Begins to send `len` bytes. MPI reads them until the request is complete.
int downhill_mpi_send(const void *at, int len, int to, uint64_t *word) {
  MPI_Request request;
  int code = MPI_Isend(at, len, MPI_BYTE, to, TAG, ranks, &request);
  if (code == MPI_SUCCESS) keep(word, request);
  return code;
}

// Looks for a message that has arrived. If one is `found`, it sets the sender and the length, and downhill_mpi_receive must follow.
int downhill_mpi_probe(int *found, int *from, int *len) {
  MPI_Status status;
  int code = MPI_Improbe(MPI_ANY_SOURCE, TAG, ranks, found, &message, &status);
  if (code != MPI_SUCCESS || !*found) return code;
  *from = status.MPI_SOURCE;
  return MPI_Get_count(&status, MPI_BYTE, len);
}

// Begins to receive the message that was found. MPI writes to `at` until the request is complete.
int downhill_mpi_receive(void *at, int len, uint64_t *word) {
  MPI_Request request;
  int code = MPI_Imrecv(at, len, MPI_BYTE, &message, &request);
  if (code == MPI_SUCCESS) keep(word, request);
  return code;
}

// Sets whether a request is complete.
int downhill_mpi_test(uint64_t *word, int *done) {
  MPI_Request request;
  memcpy(&request, word, sizeof request);
  int code = MPI_Test(&request, done, MPI_STATUS_IGNORE);
  if (code == MPI_SUCCESS) keep(word, request);
  return code;
}

int downhill_mpi_finalize(void) { return MPI_Finalize(); }

// Writes the text of a code, with at most `room` bytes, and returns the number of bytes.
int downhill_mpi_error(int code, char *text, int room) {
  char all[MPI_MAX_ERROR_STRING + 1];
  int len = 0;
  if (MPI_Error_string(code, all, &len) != MPI_SUCCESS) return 0;
  if (len > room) len = room;
  memcpy(text, all, (size_t)len);
  return len;
}
