#!/bin/sh
# The guest's first process, twice: in the initramfs it puts the host's tree under the guest's own, and there it is
# started again, to run the command. Everything that it needs of the host lies in RUN, the run's own shared folder.
# The kernel puts XTASK_VM_ROLE, XTASK_VM_KERNEL, XTASK_VM_ADDRESS and XTASK_VM_PEER into our environment, from its
# command line.

GUEST=/run/ramet-guest
RUN=/run/ramet-vm
export XTASK_VM_OUT=/run/ramet-vm-out
export XTASK_VM_DEVICE=rxe0
NINEP=trans=virtio,version=9p2000.L,msize=512000

# A guest that cannot go on says so on its console and ends; without an exit code the host knows that it was not the
# command.
die() {
    echo "ramet-vm: $*"
    end
}

# QEMU ends at once when its debugging port is written to.
end() {
    sync
    printf '\0' | dd of=/dev/port bs=1 count=1 seek=1281 2>/dev/null
    reboot -f
    sleep 60
}

# Puts the guest's own file systems into a tree.
mount_kernel_file_systems() {
    mount -t proc proc "$1/proc"
    mount -t sysfs sysfs "$1/sys"
    mount -t devtmpfs devtmpfs "$1/dev"
}

first_stage() {
    /bin/busybox mkdir -p /proc /sys /dev /lower /upper /root
    /bin/busybox --install -s /bin
    mount_kernel_file_systems ""
    while read -r module; do
        insmod "/modules/$module" || die "cannot load the module $module"
    done </modules/order
    mount -t 9p -o "$NINEP,ro,cache=loose" root /lower || die "cannot mount the host's tree"
    mount -t tmpfs -o mode=755 tmpfs /upper || die "cannot mount a tmpfs"
    mkdir /upper/upper /upper/work
    mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /root ||
        die "cannot mount the overlay"
    mkdir -p /root/proc /root/sys /root/dev /root/run
    mount -t tmpfs -o mode=755 tmpfs /root/run || die "cannot mount a tmpfs"
    mkdir "/root$GUEST" "/root$RUN" "/root$XTASK_VM_OUT"
    cp /bin/busybox /init "/root$GUEST/"
    mount -t 9p -o "$NINEP,cache=none" run "/root$RUN" || die "cannot mount the run's folder"
    mount -t 9p -o "$NINEP,cache=none" out "/root$XTASK_VM_OUT" || die "cannot mount the folder for results"
    mount_kernel_file_systems /root
    umount /proc /sys /dev
    exec switch_root /root "$GUEST/busybox" sh "$GUEST/init" second
}

mount_the_rest() {
    mkdir -p /dev/shm /dev/pts /dev/mqueue /run/lock
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
    mount -t mqueue mqueue /dev/mqueue
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t bpf bpf /sys/fs/bpf
    mount -t debugfs debugfs /sys/kernel/debug
    mount -t tracefs tracefs /sys/kernel/tracing
    [ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
    [ -e /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin
    [ -e /dev/stdout ] || ln -s /proc/self/fd/1 /dev/stdout
    [ -e /dev/stderr ] || ln -s /proc/self/fd/2 /dev/stderr
    # The kernel asks modprobe for what it misses, and modprobe looks here.
    modules="/lib/modules/$(uname -r)"
    mkdir -p "$modules" && mount --bind "$(cat $RUN/modules)" "$modules"
}

# The address is there when the device is: rxe takes its own from it.
start_network() {
    ip link set lo up
    # Packets with room for a page: paging on demand of 6.18 reads wrongly with shorter ones.
    ip link set eth0 mtu 9000 up || die "there is no eth0"
    ip addr add "$XTASK_VM_ADDRESS/24" dev eth0 || die "cannot give eth0 its address"
    rdma link add "$XTASK_VM_DEVICE" type rxe netdev eth0 || die "cannot make the soft-RoCE device"
}

# The device of a port appears when the host's side of it has been heard.
port() {
    tries=0
    while [ $tries -lt 500 ]; do
        for name in /sys/class/virtio-ports/*/name; do
            if [ "$(cat "$name" 2>/dev/null)" = "$1" ]; then
                name="${name%/name}"
                echo "/dev/${name##*/}"
                return
            fi
        done
        sleep 0.02
        tries=$((tries + 1))
    done
}

# The command that is the run's must not begin before the peer's guest is there.
wait_for_peer() {
    tries=0
    until [ -e $RUN/ready.peer ]; do
        [ $tries -lt 2400 ] || die "the peer's guest was not there after two minutes"
        sleep 0.05
        tries=$((tries + 1))
    done
}

# Waits until a process is gone, though not for ever: a program that was left behind may hold its pipe.
wait_a_little() {
    tries=0
    while kill -0 "$1" 2>/dev/null && [ $tries -lt 100 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
}

second_stage() {
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    mount_the_rest
    start_network
    hostname "ramet-$XTASK_VM_ROLE"
    # Our own limit is the kernel's very first; programs expect what a system's first process gives.
    ulimit -Hn 1048576
    ulimit -Sn 1024
    ulimit -l unlimited
    out="$(port out)"
    err="$(port err)"
    [ -c "$out" ] && [ -c "$err" ] || die "the ports for the command's output are not there"
    touch "$RUN/ready.$XTASK_VM_ROLE"
    [ "$XTASK_VM_ROLE" = peer ] || [ "$XTASK_VM_PEER" = none ] || wait_for_peer
    # Pipes without a name, as every program expects: what is forked can be given others in their place.
    {
        {
            setsid /bin/sh "$RUN/script.$XTASK_VM_ROLE" </dev/null
            echo $? >$GUEST/code.tmp && mv $GUEST/code.tmp $GUEST/code
        } 2>&1 >&3 3>&- | cat >"$err"
    } 3>&1 | cat >"$out" &
    pipes=$!
    until [ -e $GUEST/code ]; do
        sleep 0.02
    done
    wait_a_little $pipes
    code="$(cat $GUEST/code)"
    # Renamed, so that the host never reads half of it.
    echo $code >"$RUN/rc.tmp.$XTASK_VM_ROLE" && mv "$RUN/rc.tmp.$XTASK_VM_ROLE" "$RUN/rc.$XTASK_VM_ROLE"
    end
}

if [ "$1" = second ]; then second_stage; else first_stage; fi
