#!/bin/sh
# Make or update the virtual environment: scripts/make_venv.sh PYTHON FOLDER
#
# ROS comes from where it already is: an installed one (sourced, or under /opt/ros) is used
# through --system-site-packages and no ros-* package is installed; otherwise the ros-*
# packages of the package index are. FOLDER/ros.sh puts the choice into a shell's environment.
#
# Environment:
#   ROS       auto (default) looks for an installed ROS; index ignores it
#   ROS_ROOT  where installed distributions lie, default /opt/ros
set -eu

python=$1
venv=$2
ros_mode=${ROS:-auto}
ros_root=${ROS_ROOT:-/opt/ros}

die() {
    printf 'make_venv: %s\n' "$*" >&2
    exit 1
}

# Run "$python" with the ROS whose setup file is $1 in its environment ('' changes nothing).
ros_python() {
    setup=$1
    shift
    if [ -n "$setup" ]; then
        # shellcheck disable=SC2016 # expanded by the inner shell
        sh -c '. "$1"; shift; exec "$@"' sh "$setup" "$python" "$@"
    else
        "$python" "$@"
    fi
}

imports_rclpy() {
    ros_python "$1" -c 'import rclpy.node' >/dev/null 2>&1
}

check_python() {
    command -v "$python" >/dev/null ||
        die "no command '$python'; install Python 3.11 or name yours: make PYTHON=python3.12"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
        die "'$python' does not run; its own lines above say why"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "'$python' is Python $version; seg_node needs 3.10 or newer: make PYTHON=python3.11"
}

# Set $distro and $setup ('' where the environment is already sourced, or for the index).
find_ros() {
    distro=index
    setup=
    tried=
    case $ros_mode in
    auto) ;;
    index) return ;;
    *) die "ROS=$ros_mode is unknown; use ROS=auto or ROS=index" ;;
    esac
    if [ -n "${ROS_DISTRO:-}" ] && imports_rclpy ''; then
        distro=$ROS_DISTRO
        [ ! -f "$ros_root/$distro/setup.sh" ] || setup=$ros_root/$distro/setup.sh
        return
    fi
    # Distributions are named in alphabetical order: the last that works is the newest.
    for candidate in "$ros_root"/*/setup.sh; do
        [ -f "$candidate" ] || continue
        name=$(basename "$(dirname "$candidate")")
        tried="$tried $name"
        if imports_rclpy "$candidate"; then
            distro=$name
            setup=$candidate
        fi
    done
    [ "$distro" != index ] || [ -z "$tried" ] ||
        die "ROS$tried is installed under $ros_root, but '$python' (Python $version) cannot" \
            "import its rclpy. Use the Python that it was built for (make PYTHON=/usr/bin/python3)" \
            "or ignore it and take ROS from the package index (make ROS=index)"
}

make_venv() {
    if [ -x "$venv/bin/python" ]; then
        has=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        [ "$has" = "$version" ] ||
            die "$venv is Python $has and '$python' is $version; to change: rm -r $venv"
        was=$(sed -n 's/^# ROS: //p' "$venv/ros.sh" 2>/dev/null || true)
        [ "${was:-$distro}" = "$distro" ] ||
            die "$venv was made for ROS '$was' and now finds '$distro'; to change: rm -r $venv"
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "'$python' has no venv or ensurepip; on Debian and Ubuntu:" \
            "apt install python$version-venv"
    if [ "$distro" = index ]; then
        "$python" -m venv "$venv"
    else
        "$python" -m venv --system-site-packages "$venv"
    fi
}

# Write the requirements and constraints that suit an installed ROS; see constraints.txt.
adapt_requirements() {
    grep -v '^ros-' requirements.txt >"$venv/requirements.txt"
    grep -v '^ros-' constraints.txt >"$venv/constraints.txt"
    numpy=$(ros_python "$setup" -c 'import numpy; print(numpy.__version__)' 2>/dev/null || true)
    case $numpy in
    1.*)
        echo "ROS $distro was built for NumPy 1 (here $numpy): NumPy and OpenCV stay with it"
        sed -i -e '/^numpy==/d' -e '/^opencv-python-headless==/d' "$venv/constraints.txt"
        printf 'numpy==1.26.4\nopencv-python-headless==4.11.0.86\n' >>"$venv/constraints.txt"
        ;;
    esac
}

install_packages() {
    requirements=requirements.txt
    constraints=constraints.txt
    if [ "$distro" != index ]; then
        adapt_requirements
        requirements=$venv/requirements.txt
        constraints=$venv/constraints.txt
    fi
    quiet=
    [ -t 1 ] || quiet=-qq
    # shellcheck disable=SC2086 # $quiet is one option or none
    "$venv/bin/python" -m pip install --disable-pip-version-check $quiet \
        -r "$requirements" -c "$constraints" ||
        die "pip could not install $requirements; its own lines above say why"
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --disable-pip-version-check $quiet \
        --no-deps --no-build-isolation --editable .
}

write_ros_sh() {
    {
        echo "# ROS: $distro"
        echo "# Written by scripts/make_venv.sh; sourced by the Makefile before it runs anything."
        if [ -n "$setup" ]; then
            echo ". '$setup'"
        elif [ "$distro" != index ]; then
            echo "[ -n \"\${ROS_DISTRO:-}\" ] || { echo 'source ROS $distro first' >&2; exit 1; }"
        fi
    } >"$venv/ros.sh"
}

say_ros() {
    if [ "$distro" = index ]; then
        rclpy=$("$venv/bin/python" -m pip show ros-rclpy 2>/dev/null | sed -n 's/^Version: //p')
        echo "ROS: packages of the package index in $venv (rclpy $rclpy)"
    else
        echo "ROS: $distro, installed at ${setup:-the sourced environment}; no ros-* package added"
    fi
}

check_python
find_ros
[ "$distro" != index ] || "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "no ROS is installed for '$python' (Python $version), and the package index has ROS for" \
        "Python 3.11 and newer only: make PYTHON=python3.11, or install ROS 2"
make_venv
install_packages
write_ros_sh
say_ros
