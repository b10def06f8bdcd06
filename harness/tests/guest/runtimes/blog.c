// A container as many a blog has it: clone(2), chroot(2), and a /proc. No mount
// is made private. blog ROOT COMMAND [ARG]...
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static char stack[1 << 20];

static int child(void *argument)
{
    char **argv = argument;
    sethostname("container", 9);
    if (chroot(argv[1]) || chdir("/")) {
        perror("chroot");
        return 1;
    }
    mount("proc", "/proc", "proc", 0, 0);
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 1;
}

int main(int argc, char **argv)
{
    int flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWIPC;
    int pid = clone(child, stack + sizeof stack, flags | SIGCHLD, argv);
    char proc[4096];
    if (pid < 0) {
        perror("clone");
        return 1;
    }
    waitpid(pid, 0, 0);
    snprintf(proc, sizeof proc, "%s/proc", argv[1]);
    umount(proc);
    printf("container ended\n");
    return 0;
}
