//! Which attributes a session carries: what the options want, this process can read and the receiver can set. What is left out is said once a session.

use crate::model::attrs::Namespaces;
use crate::model::op::Abilities;
use crate::model::options::Options;
use crate::sys::xattr::readable;

/// What the options want and can be read here.
pub(super) fn wanted(options: &Options) -> Namespaces {
    let xattrs = if options.xattrs { Namespaces::ALL.without(Namespaces::ACL) } else { Namespaces::NONE };
    let acls = if options.acls { Namespaces::ACL } else { Namespaces::NONE };
    let all = xattrs.or(acls);
    if all.is_empty() { all } else { all.and(readable()) }
}

/// Says what of it, and of what else makes a file, the receiver cannot set.
pub(super) fn tell(wanted: Namespaces, abilities: Abilities) {
    if !abilities.chown {
        tracing::info!("the receiver is not privileged: owners and groups are left as they are there");
    }
    if !abilities.mknod {
        tracing::info!("the receiver cannot make device nodes: they are left out");
    }
    let grain = abilities.times.grain();
    if grain > 1 {
        tracing::info!(
            grain_ns = grain,
            "the receiver's filesystem keeps times more coarsely than here: they are compared as it keeps them"
        );
    }
    let names = [
        (Namespaces::USER, "user.*"),
        (Namespaces::ACL, "access control lists"),
        (Namespaces::CAPABILITY, "capabilities"),
        (Namespaces::TRUSTED, "trusted.*"),
        (Namespaces::SECURITY, "security.*"),
        (Namespaces::LABEL, "labels of SELinux and Smack"),
        (Namespaces::OVERLAY, "overlayfs's own"),
    ];
    let lacking = wanted.without(abilities.attrs);
    let lacking: Vec<&str> = names.iter().filter(|(namespace, _)| lacking.has(*namespace)).map(|(_, name)| *name).collect();
    if !lacking.is_empty() {
        tracing::info!("the receiver cannot set these attributes, which are left as they are there: {}", lacking.join(", "));
    }
}
