#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static void told(const char *what, const char *whom) {
    char line[300]; const char *place = getenv("NET_TRAP"); int file;
    if (place == NULL || (file = open(place, O_WRONLY | O_CREAT | O_APPEND, 0600)) < 0) return;
    int n = snprintf(line, sizeof line, "%d %s %.200s\n", (int)getpid(), what, whom ? whom : "");
    if (write(file, line, n) < 0) _exit(99);
    close(file);
}
static int leads_out(const struct sockaddr *to) { return to != NULL && to->sa_family != AF_UNIX && to->sa_family != AF_UNSPEC; }
int connect(int s, const struct sockaddr *to, socklen_t n) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    if (!leads_out(to)) return real(s, to, n);
    told("connect", ""); errno = ENETUNREACH; return -1;
}
ssize_t sendto(int s, const void *b, size_t m, int f, const struct sockaddr *to, socklen_t n) {
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    if (!leads_out(to)) return real(s, b, m, f, to, n);
    told("sendto", ""); errno = ENETUNREACH; return -1;
}
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    told("getaddrinfo", host); return EAI_AGAIN;
}
struct hostent *gethostbyname(const char *host) { told("gethostbyname", host); return NULL; }
struct hostent *gethostbyname2(const char *host, int f) { told("gethostbyname2", host); return NULL; }
