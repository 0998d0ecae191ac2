/* A stand-in for the NVIDIA driver's libnvidia-ml.so.1, for tests: what it says is in a text file.
 *
 * NVML_STAND_IN names the file, which is read again at every call. stand_in.py writes it, and
 * compiles this against NVIDIA's own nvml.h, so that the prototypes and structures are the real
 * ones. A line is some words, the last of which may be a text to the end of the line:
 *
 *   init CODE                        what nvmlInit fails with
 *   driver TEXT | cuda NUMBER        versions
 *   gpu INDEX KEY TEXT               a property of a GPU; its UUID is the key `uuid`
 *   slice GPU INDEX KEY TEXT         of the MIG slice at this index of a GPU; others are holes
 *   error NAME CODE INDEX            what a call of this name (`*`: of any) returns for a GPU, or for
 *                                    all (-1); the first line that fits holds
 *   hang NAME                        calls of this name wait until the line is gone
 *
 * As with the driver's, how many GPUs there are is seen when the library is opened.
 *
 * Beside it may lie FILE.procs, which engines append to, and FILE.events, which tests append to:
 *
 *   UUID PID BYTES SECONDS           memory of a process, on a GPU or a slice; a later line of the
 *                                    same two holds instead. When the process has ended it is freed,
 *                                    so many seconds after it was first seen to be dead
 *   UUID TYPE DATA GI CI             an event, for whoever has registered before
 *
 * OLD_DRIVER leaves out what drivers have had only for some years.
 */
#include <nvml.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GPUS 8
#define SLICES 8
#define PROCESSES 256
#define LINE 512
#define EXPORT __attribute__((visibility("default")))

/* A handle is a pointer into this array: a GPU's index, and the slice's, or -1. */
struct nvmlDevice_st { int gpu, slice; };
static struct nvmlDevice_st devices[GPUS][SLICES + 1];
/* An event set: what of the events' file it has behind it, and who has registered. */
struct nvmlEventSet_st { long at; unsigned long long types[GPUS]; };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;
static unsigned int opened; /* how many GPUs there were when the library was opened */

static void nap(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static FILE *open_state(const char *suffix) {
    const char *name = getenv("NVML_STAND_IN");
    char path[4096];
    if (name == NULL) return NULL;
    snprintf(path, sizeof path, "%s%s", name, suffix);
    return fopen(path, "re");
}

/* The text of the first line that begins with these words, without them. */
static int find(const char *words, char text[LINE]) {
    FILE *file = open_state("");
    size_t length = strlen(words);
    int found = 0;
    if (file == NULL) return 0;
    while (!found && fgets(text, LINE, file) != NULL) {
        text[strcspn(text, "\n")] = 0;
        if (strncmp(text, words, length) == 0 && (text[length] == ' ' || text[length] == 0)) {
            memmove(text, text + length + (text[length] == ' '), strlen(text + length) + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

/* A property of a GPU or a slice. */
static int property(nvmlDevice_t device, const char *key, char text[LINE]) {
    char words[LINE];
    if (device->slice < 0) snprintf(words, sizeof words, "gpu %d %s", device->gpu, key);
    else snprintf(words, sizeof words, "slice %d %d %s", device->gpu, device->slice, key);
    return find(words, text);
}

static int number(nvmlDevice_t device, const char *key, unsigned long long *value) {
    char text[LINE];
    if (!property(device, key, text)) return 0;
    *value = strtoull(text, NULL, 10);
    return 1;
}

/* What comes before each call: it may hang, it may fail. */
static nvmlReturn_t begin(const char *name, nvmlDevice_t device) {
    char words[LINE], text[LINE];
    snprintf(words, sizeof words, "hang %s", name);
    while (find(words, text)) nap(5);
    if (users == 0) return NVML_ERROR_UNINITIALIZED;
    if (device != NULL && device->slice < 0 && !property(device, "uuid", text))
        return NVML_ERROR_GPU_IS_LOST; /* it is gone since */
    for (int index = device == NULL ? -1 : device->gpu;; index = -1) {
        FILE *file = open_state("");
        char called[LINE];
        int code, whose, said = 0;
        while (file != NULL && !said && fgets(text, LINE, file) != NULL)
            said = sscanf(text, "error %500s %d %d", called, &code, &whose) == 3 && whose == index
                   && (strcmp(called, name) == 0 || strcmp(called, "*") == 0);
        if (file != NULL) fclose(file);
        if (said) return (nvmlReturn_t)code;
        if (index == -1) return NVML_SUCCESS;
    }
}
#define BEGIN(device)                                                                            \
    do {                                                                                         \
        nvmlReturn_t begun = begin(__func__, device);                                            \
        if (begun != NVML_SUCCESS) return begun;                                                 \
    } while (0)

static nvmlReturn_t text_of(nvmlDevice_t device, const char *key, char *to, unsigned int size) {
    char text[LINE];
    if (!property(device, key, text)) return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(text) >= size) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(to, text);
    return NVML_SUCCESS;
}

static nvmlReturn_t number_of(nvmlDevice_t device, const char *key, unsigned int *to) {
    unsigned long long value;
    if (!number(device, key, &value)) return NVML_ERROR_NOT_SUPPORTED;
    *to = (unsigned int)value;
    return NVML_SUCCESS;
}

/* -- processes ---------------------------------------------------------------- */

struct process { unsigned int pid; unsigned long long bytes; int alive; };

/* A process that has ended but has no grave yet holds no memory either. */
static int is_alive(unsigned int pid) {
    char path[64], text[LINE], *after;
    FILE *file;
    size_t length;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    if ((file = fopen(path, "re")) == NULL) return 0;
    length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    after = strrchr(text, ')');
    return after != NULL && after[1] != 0 && after[2] != 'Z' && after[2] != 'X';
}

/* Whether a dead process's memory is still to be freed: so long after it was first seen dead. */
static int lingers(unsigned int pid, double seconds) {
    static struct { unsigned int pid; double seen; } dead[PROCESSES];
    int result = 0;
    if (seconds <= 0) return 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < PROCESSES; i++) {
        if (dead[i].pid == 0) { dead[i].pid = pid; dead[i].seen = now(); }
        if (dead[i].pid == pid) { result = now() - dead[i].seen < seconds; break; }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int same_device(nvmlDevice_t device, const char *uuid) {
    char text[LINE];
    struct nvmlDevice_st slice = {device->gpu, 0};
    if (property(device, "uuid", text) && strcmp(text, uuid) == 0) return 1;
    if (device->slice >= 0) return 0;
    for (; slice.slice < SLICES; slice.slice++) /* a GPU has its slices' processes, too */
        if (property(&slice, "uuid", text) && strcmp(text, uuid) == 0) return 1;
    return 0;
}

/* The processes with memory on a device: those that live, and those whose memory is not free yet. */
static int processes_of(nvmlDevice_t device, struct process found[PROCESSES]) {
    FILE *file = open_state(".procs");
    char text[LINE], uuid[LINE];
    struct process one;
    double seconds;
    int count = 0, kept = 0, i;
    while (file != NULL && fgets(text, LINE, file) != NULL) {
        if (sscanf(text, "%500s %u %llu %lf", uuid, &one.pid, &one.bytes, &seconds) != 4) continue;
        if (!same_device(device, uuid)) continue;
        one.alive = is_alive(one.pid);
        if (!one.alive && !lingers(one.pid, seconds)) one.bytes = 0;
        for (i = 0; i < count && found[i].pid != one.pid; i++) {}
        if (i == PROCESSES) continue;
        found[i] = one;
        if (i == count) count++;
    }
    if (file != NULL) fclose(file);
    for (i = 0; i < count; i++)
        if (found[i].bytes > 0) found[kept++] = found[i];
    return kept;
}

/* -- the library and the machine ------------------------------------------------- */

static unsigned int count_gpus(void) {
    char text[LINE];
    unsigned int count = 0;
    while (count < GPUS && property(&devices[count][0], "uuid", text)) count++;
    return count;
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    char text[LINE];
    FILE *file;
    (void)flags;
    while (find("hang nvmlInitWithFlags", text)) nap(5);
    if ((file = open_state("")) == NULL) return NVML_ERROR_DRIVER_NOT_LOADED;
    fclose(file);
    if (find("init", text)) return (nvmlReturn_t)atoi(text);
    for (int gpu = 0; gpu < GPUS; gpu++)
        for (int slice = -1; slice < SLICES; slice++)
            devices[gpu][slice + 1] = (struct nvmlDevice_st){gpu, slice};
    pthread_mutex_lock(&lock);
    if (users++ == 0) opened = count_gpus();
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT nvmlReturn_t nvmlShutdown(void) {
    BEGIN(NULL);
    pthread_mutex_lock(&lock);
    users--;
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    return result == NVML_SUCCESS ? "Success" : "An error of the stand-in";
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    char text[LINE];
    BEGIN(NULL);
    if (!find("driver", text)) return NVML_ERROR_NOT_SUPPORTED;
    snprintf(version, length, "%s", text);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    char text[LINE];
    BEGIN(NULL);
    if (!find("cuda", text)) return NVML_ERROR_NOT_SUPPORTED;
    *version = atoi(text);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    BEGIN(NULL);
    *count = opened;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (index >= opened) return NVML_ERROR_INVALID_ARGUMENT;
    BEGIN(&devices[index][0]);
    *device = &devices[index][0];
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    char text[LINE];
    BEGIN(NULL);
    for (int gpu = 0; gpu < GPUS; gpu++)
        for (int slice = -1; slice < SLICES; slice++)
            if (property(&devices[gpu][slice + 1], "uuid", text) && strcmp(text, uuid) == 0) {
                *device = &devices[gpu][slice + 1];
                return NVML_SUCCESS;
            }
    return NVML_ERROR_NOT_FOUND;
}

/* -- a device ---------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    BEGIN(device);
    return text_of(device, "uuid", uuid, length);
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    BEGIN(device);
    return text_of(device, "name", name, length);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    BEGIN(device);
    *index = (unsigned int)device->gpu;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) {
    BEGIN(device);
    *minor = (unsigned int)device->gpu;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    BEGIN(device);
    memset(pci, 0, sizeof *pci);
    return text_of(device, "pci", pci->busId, sizeof pci->busId);
}

/* What is held: by nobody in particular (`used`), and by the processes. */
static nvmlReturn_t memory_of(nvmlDevice_t device, unsigned long long memory[3]) {
    struct process found[PROCESSES];
    memory[1] = memory[2] = 0;
    if (!number(device, "total", &memory[0])) return NVML_ERROR_NOT_SUPPORTED;
    number(device, "reserved", &memory[1]);
    number(device, "used", &memory[2]);
    for (int i = processes_of(device, found) - 1; i >= 0; i--) memory[2] += found[i].bytes;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    unsigned long long read[3];
    nvmlReturn_t result;
    BEGIN(device);
    if ((result = memory_of(device, read)) != NVML_SUCCESS) return result;
    memory->total = read[0];
    memory->used = read[1] + read[2];
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

#ifndef OLD_DRIVER
EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    unsigned long long read[3];
    nvmlReturn_t result;
    BEGIN(device);
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if ((result = memory_of(device, read)) != NVML_SUCCESS) return result;
    memory->total = read[0];
    memory->reserved = read[1];
    memory->used = read[2];
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *reading) {
    unsigned long long value;
    BEGIN(device);
    if (!number(device, "temperature", &value)) return NVML_ERROR_NOT_SUPPORTED;
    reading->temperature = (int)value;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node) {
    BEGIN(device);
    return number_of(device, "own_numa", node); /* only where a GPU is itself a node */
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryAffinity(
    nvmlDevice_t device, unsigned int size, unsigned long *nodes, nvmlAffinityScope_t scope) {
    unsigned long long node;
    BEGIN(device);
    (void)scope;
    memset(nodes, 0, size * sizeof *nodes);
    if (!number(device, "numa", &node) || node >= size * 64) return NVML_ERROR_NOT_SUPPORTED;
    nodes[node / 64] = 1UL << node % 64;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(
    nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    BEGIN(device);
    for (int i = 0; i < count; i++) {
        values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        if (values[i].fieldId != NVML_FI_DEV_GET_GPU_RECOVERY_ACTION) continue;
        values[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
        values[i].nvmlReturn = number_of(device, "recovery", &values[i].value.uiVal);
    }
    return NVML_SUCCESS;
}
#endif

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(
    nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *temperature) {
    BEGIN(device);
    (void)sensor;
    return number_of(device, "temperature", temperature);
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    BEGIN(device);
    rates->memory = 0;
    return number_of(device, "utilization", &rates->gpu);
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    BEGIN(device);
    return number_of(device, "power", milliwatts);
}

EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *limit) {
    BEGIN(device);
    return number_of(device, "power_limit", limit);
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    char text[LINE];
    BEGIN(device);
    if (!property(device, "compute", text)) return NVML_ERROR_NOT_SUPPORTED;
    return sscanf(text, "%d.%d", major, minor) == 2 ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

#ifdef OLD_DRIVER
#define PROCESSES_CALL nvmlDeviceGetComputeRunningProcesses_v2
nvmlReturn_t PROCESSES_CALL(nvmlDevice_t, unsigned int *, nvmlProcessInfo_v2_t *);
#else
#define PROCESSES_CALL nvmlDeviceGetComputeRunningProcesses_v3
#endif
EXPORT nvmlReturn_t PROCESSES_CALL(
    nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {
    struct process found[PROCESSES];
    unsigned int room = *count, alive = 0;
    char text[LINE];
    int hidden;
    BEGIN(device);
    hidden = property(device, "processes", text) && strcmp(text, "hidden") == 0;
    if (property(device, "processes", text) && strcmp(text, "forbidden") == 0)
        return NVML_ERROR_NO_PERMISSION;
    for (int i = 0, all = processes_of(device, found); i < all; i++) {
        if (hidden || !found[i].alive) continue;
        if (alive < room && infos != NULL)
            infos[alive] = (nvmlProcessInfo_t){
                .pid = found[i].pid, .usedGpuMemory = found[i].bytes,
                .gpuInstanceId = 0xFFFFFFFF, .computeInstanceId = 0xFFFFFFFF};
        alive++;
    }
    *count = alive;
    return alive <= room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

/* -- MIG ------------------------------------------------------------------------------ */

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(
    nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    nvmlReturn_t result;
    BEGIN(device);
    result = number_of(device, "mig", current);
    *pending = *current;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    BEGIN(device);
    *count = SLICES - 1;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(
    nvmlDevice_t device, unsigned int index, nvmlDevice_t *slice) {
    char text[LINE];
    BEGIN(device);
    if (index >= SLICES) return NVML_ERROR_INVALID_ARGUMENT;
    *slice = &devices[device->gpu][index + 1];
    return property(*slice, "uuid", text) ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    nvmlDevice_t slice, nvmlDevice_t *device) {
    BEGIN(slice);
    *device = &devices[slice->gpu][0];
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t slice, unsigned int *id) {
    BEGIN(slice);
    return number_of(slice, "gi", id);
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t slice, unsigned int *id) {
    BEGIN(slice);
    return number_of(slice, "ci", id);
}

/* -- links ------------------------------------------------------------------------------ */

/* The GPU at the other end of a link; `nvlinks` is a list of indexes. */
static int linked(nvmlDevice_t device, unsigned int link, int *peer) {
    char text[LINE], *rest = text;
    if (!property(device, "nvlinks", text)) return 0;
    for (char *word; (word = strsep(&rest, " ")) != NULL; link--) {
        *peer = atoi(word);
        if (link == 0) return 1;
    }
    return 0;
}

EXPORT nvmlReturn_t nvmlDeviceGetP2PStatus(
    nvmlDevice_t one, nvmlDevice_t other, nvmlGpuP2PCapsIndex_t what, nvmlGpuP2PStatus_t *status) {
    int peer;
    BEGIN(one);
    *status = NVML_P2P_STATUS_NOT_SUPPORTED;
    for (unsigned int link = 0; what == NVML_P2P_CAPS_INDEX_NVLINK && linked(one, link, &peer); link++)
        if (peer == other->gpu) *status = NVML_P2P_STATUS_OK;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(
    nvmlDevice_t device, unsigned int link, nvmlEnableState_t *state) {
    int peer;
    BEGIN(device);
    *state = linked(device, link, &peer) ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(
    nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
    int peer;
    BEGIN(device);
    memset(pci, 0, sizeof *pci);
    if (!linked(device, link, &peer)) return NVML_ERROR_NOT_SUPPORTED;
    return text_of(&devices[peer][0], "pci", pci->busId, sizeof pci->busId);
}

EXPORT nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(
    nvmlDevice_t one, nvmlDevice_t other, nvmlGpuTopologyLevel_t *level) {
    unsigned long long here = 0, there = 0;
    BEGIN(one);
    number(one, "numa", &here);
    number(other, "numa", &there);
    *level = one == other ? NVML_TOPOLOGY_INTERNAL
             : here == there ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
    return NVML_SUCCESS;
}

/* -- events ------------------------------------------------------------------------------ */

EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    FILE *file;
    BEGIN(NULL);
    *set = calloc(1, sizeof **set);
    if ((file = open_state(".events")) != NULL) {
        fseek(file, 0, SEEK_END);
        (*set)->at = ftell(file);
        fclose(file);
    }
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    BEGIN(NULL);
    free(set);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(
    nvmlDevice_t device, unsigned long long *types) {
    BEGIN(device);
    *types = nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError
             | nvmlEventTypeSingleBitEccError | nvmlEventTypePState;
    number(device, "events", types);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(
    nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    BEGIN(device);
    set->types[device->gpu] |= types;
    return NVML_SUCCESS;
}

/* The next event in the file that the set wants. */
static int next_event(nvmlEventSet_t set, nvmlEventData_t *data) {
    FILE *file = open_state(".events");
    char text[LINE], uuid[LINE], own[LINE];
    int found = 0;
    if (file == NULL) return 0;
    fseek(file, set->at, SEEK_SET);
    while (!found && fgets(text, LINE, file) != NULL && strchr(text, '\n') != NULL) {
        set->at = ftell(file);
        if (sscanf(text, "%500s %llu %llu %u %u", uuid, &data->eventType, &data->eventData,
                   &data->gpuInstanceId, &data->computeInstanceId) != 5) continue;
        for (int gpu = 0; gpu < GPUS && !found; gpu++) {
            data->device = &devices[gpu][0];
            found = property(data->device, "uuid", own) && strcmp(own, uuid) == 0
                    && (set->types[gpu] & data->eventType);
        }
    }
    fclose(file);
    return found;
}

EXPORT nvmlReturn_t nvmlEventSetWait_v2(
    nvmlEventSet_t set, nvmlEventData_t *data, unsigned int milliseconds) {
    double until = now() + milliseconds / 1000.0;
    do {
        BEGIN(NULL);
        if (next_event(set, data)) return NVML_SUCCESS;
        nap(5);
    } while (now() < until);
    return NVML_ERROR_TIMEOUT;
}
