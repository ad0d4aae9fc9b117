/* The floor in C: the processes and system calls of the load with one byte each way, to measure what the compiled loops
 * cost over it. Usage: floor CONNECTIONS PER_PROCESS ECHOES. Prints one JSON line. Loopback only.
 *
 * Shards share one listener; TURNS of them accept at a time, the others sleep until it is their turn. LANES workers dial
 * at a time, each with PENDING dials under way, from source addresses 127.1.0.1 on. Then each connection echoes ECHOES
 * messages of 32 bytes, LANES workers at a time with a window of 64 messages each.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { TURNS = 2, LANES = 4, PENDING = 256, WINDOW = 64, EVENTS = 256, MESSAGE = 32, SECONDS_MAX = 300 };
static volatile long *accepted, *opened, *echoed, *bad, *go;
static int processes, share, total;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static int target(int index) { return index < processes - 1 ? share : total - share * (processes - 1); }
static int before(volatile long *counts, int index, int times) {
    int left = 0;
    for (int i = 0; i < index; i++) left += counts[i] < (long)target(i) * times;
    return left;
}
static void watch(int epoll, int fd, unsigned mask) {
    struct epoll_event event = {.events = mask, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void shard(int listener, int index) {
    struct epoll_event events[EVENTS];
    char buffer[4096];
    while (before(accepted, index, 1) >= TURNS) usleep(5000);
    int epoll = epoll_create1(0);
    watch(epoll, listener, EPOLLIN | EPOLLEXCLUSIVE);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                ssize_t size = read(fd, buffer, sizeof buffer);
                if (size <= 0) close(fd);
                else if (write(fd, buffer, size) != size) ++*bad;
                continue;
            }
            for (int n = 0; n < 64; n++) {
                int peer = accept4(listener, 0, 0, SOCK_NONBLOCK);
                if (peer < 0) break;
                watch(epoll, peer, EPOLLIN);
                ssize_t size = read(peer, buffer, sizeof buffer);
                if (size > 0 && write(peer, buffer, size) != size) ++*bad;
                if (++accepted[index] >= target(index)) {
                    epoll_ctl(epoll, EPOLL_CTL_DEL, listener, 0);
                    break;
                }
            }
        }
    }
}

static void worker(struct sockaddr_in there, int index, int echoes) {
    struct epoll_event events[EVENTS];
    char buffer[4096], message[MESSAGE];
    int mine = target(index), *fds = calloc(mine, sizeof *fds), begun = 0, epoll = epoll_create1(0);
    struct linger reset = {1, 0};
    int yes = 1;
    while (before(opened, index, 1) >= LANES) usleep(5000);
    while (opened[index] < mine) {
        for (int n = 0; n < 16 && begun < mine && begun - opened[index] < PENDING; n++, begun++) {
            struct sockaddr_in here = {.sin_family = AF_INET};
            here.sin_addr.s_addr = htonl(0x7f010001 + index * 3 + begun % 3);
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            setsockopt(fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &yes, sizeof yes);
            bind(fd, (void *)&here, sizeof here);
            connect(fd, (void *)&there, sizeof there);
            watch(epoll, fd, EPOLLIN);
            if (write(fd, "\1", 1) != 1) ++*bad;
            fds[begun] = fd;
        }
        int count = epoll_wait(epoll, events, EVENTS, begun < mine && begun - opened[index] < PENDING ? 0 : 1000);
        for (int i = 0; i < count; i++) {
            if (read(events[i].data.fd, buffer, sizeof buffer) != 1) ++*bad;
            opened[index]++;
        }
    }
    while (!*go || before(echoed, index, echoes) >= LANES) usleep(5000);
    memset(message, 'x', sizeof message);
    for (long sent = 0; echoed[index] < (long)mine * echoes;) {
        for (; sent < (long)mine * echoes && sent - echoed[index] < WINDOW; sent++)
            if (write(fds[sent % mine], message, MESSAGE) != MESSAGE) ++*bad;
        int count = epoll_wait(epoll, events, EVENTS, 1000);
        for (int i = 0; i < count; i++) {
            /* Two echoes of a connection may have come together. */
            ssize_t size = read(events[i].data.fd, buffer, sizeof buffer);
            if (size <= 0 || size % MESSAGE || buffer[size - 1] != 'x') ++*bad;
            echoed[index] += size <= MESSAGE ? 1 : size / MESSAGE;
        }
    }
    for (;;) pause();
}

static double wait_for(volatile long *counts, long times) {
    double began = now();
    while (before(counts, processes, times)) {
        if (now() - began > SECONDS_MAX) exit(1);
        usleep(2000);
    }
    return now() - began;
}

int main(int argc, char **argv) {
    total = argc > 1 ? atoi(argv[1]) : 1000;
    share = argc > 2 ? atoi(argv[2]) : 19500;
    int echoes = argc > 3 ? atoi(argv[3]) : 1, yes = 1;
    processes = (total + share - 1) / share;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    long *words = mmap(0, (3 * processes + 2) * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    accepted = words, opened = words + processes, echoed = words + 2 * processes;
    bad = words + 3 * processes, go = bad + 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(listener, (void *)&address, length) || listen(listener, 4096)) return 1;
    getsockname(listener, (void *)&address, &length);
    setpgid(0, 0);
    for (int i = 0; i < processes; i++)
        if (!fork()) { prctl(PR_SET_PDEATHSIG, SIGKILL); shard(listener, i); }
    double began = now();
    for (int i = 0; i < processes; i++)
        if (!fork()) { prctl(PR_SET_PDEATHSIG, SIGKILL); worker(address, i, echoes); }
    wait_for(opened, 1);
    double ramp = now() - began;
    *go = 1;
    double talk = wait_for(echoed, echoes);
    printf("{\"connections\": %d, \"connections_per_second\": %.0f, \"messages_per_second\": %.0f, \"bad\": %ld}\n", total,
           total / ramp, (double)total * echoes / talk, *bad);
    fflush(stdout);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (wait(0) > 0) {}
    return 0;
}
