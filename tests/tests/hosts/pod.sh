# Makes a container of this process, as far as it can be seen from within: the host's name, the root
# and who it is. The programs are linked to the C library of the machine, so /usr is there as well.
set -eu
name=$1 root=$2 hosts=$3 program=$4 user=$5 group=$6 command=$7
shift 7
hostname "$name"
mount --bind "$root" "$root"
mount --bind /usr "$root/usr"
mount --bind "$hosts" "$root/etc/hosts"
mount --bind "$program" "$root$command"
for device in null urandom; do mount --bind "/dev/$device" "$root/dev/$device"; done
mount --rbind /proc "$root/proc"
for path in "$root" "$root/usr" "$root$command"; do mount -o remount,bind,ro "$path"; done
# As container runtimes do; where that is not permitted, what there is has to do.
ulimit -n 1048576 2>/dev/null || true
exec chroot "$root" setpriv "--reuid=$user" "--regid=$group" --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all --pdeathsig KILL -- "$command" "$@"
