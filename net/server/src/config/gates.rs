//! `--feature-gates`: etcd's gates by name, and what each means here.

/// What a gate means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Both values pass and change nothing; the text says why.
    NoEffect(&'static str),
    /// Only the default passes; the text says what is not there yet.
    Later(&'static str),
}

/// One gate of etcd 3.7.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// alpha or beta.
    pub stage: &'static str,
    /// Whether etcd opens it by itself.
    pub default: bool,
    /// What it means here.
    pub meaning: Meaning,
}

const fn gate(name: &'static str, stage: &'static str, default: bool, meaning: Meaning) -> Gate {
    Gate {
        name,
        stage,
        default,
        meaning,
    }
}

const ONE_MEMBER: Meaning = Meaning::NoEffect("a member alone has nobody to compare with");
const CHECKPOINTS: Meaning =
    Meaning::Later("remaining times of leases are not kept over a restart yet");

/// Every gate of etcd 3.7.
pub const GATES: &[Gate] = &[
    gate("CompactHashCheck", "alpha", false, ONE_MEMBER),
    gate(
        "FastLeaseKeepAlive",
        "beta",
        true,
        Meaning::NoEffect("keep-alives never wait for the store"),
    ),
    gate("InitialCorruptCheck", "alpha", false, ONE_MEMBER),
    gate("LeaseCheckpoint", "alpha", false, CHECKPOINTS),
    gate("LeaseCheckpointPersist", "alpha", false, CHECKPOINTS),
    gate(
        "PriorityRequest",
        "alpha",
        false,
        Meaning::NoEffect("no request is refused because applying is behind"),
    ),
    gate("SetMemberLocalAddr", "alpha", false, ONE_MEMBER),
    gate(
        "StopGRPCServiceOnDefrag",
        "alpha",
        false,
        Meaning::NoEffect("a defragmentation stops nothing"),
    ),
    gate(
        "TxnModeWriteWithSharedBuffer",
        "beta",
        true,
        Meaning::NoEffect("there is no bbolt backend to tune"),
    ),
];

/// Checks a list of `GATE=true` and `GATE=false`.
///
/// # Errors
/// One sentence for every mistake.
pub fn check(text: &str) -> Result<(), Vec<String>> {
    let mistakes: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| check_pair(pair).err())
        .collect();
    if mistakes.is_empty() {
        Ok(())
    } else {
        Err(mistakes)
    }
}

fn check_pair(pair: &str) -> Result<(), String> {
    let Some((name, value)) = pair.split_once('=') else {
        return Err(format!("missing bool value for feature gate {pair:?}"));
    };
    let (name, value) = (name.trim(), value.trim());
    let open = match value {
        "true" | "True" | "TRUE" | "1" | "t" | "T" => true,
        "false" | "False" | "FALSE" | "0" | "f" | "F" => false,
        _ => {
            return Err(format!(
                "invalid value {value:?} for feature gate {name} (true or false)"
            ));
        }
    };
    let concerned = |gate: &&Gate| match name {
        "AllAlpha" => gate.stage == "alpha",
        "AllBeta" => gate.stage == "beta",
        name => gate.name == name,
    };
    let mut gates = GATES.iter().filter(concerned).peekable();
    if gates.peek().is_none() {
        return Err(format!("unrecognized feature gate: {name}"));
    }
    for gate in gates {
        if let Meaning::Later(why) = gate.meaning
            && open != gate.default
        {
            return Err(format!(
                "feature gate {name}={value} is refused: {}: {why}",
                gate.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates() {
        for text in [
            "",
            "StopGRPCServiceOnDefrag=true",
            "CompactHashCheck=true, FastLeaseKeepAlive=false",
            "LeaseCheckpoint=false,AllBeta=false,AllAlpha=0",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for (text, part) in [
            ("Nope=true", "unrecognized feature gate: Nope"),
            ("CompactHashCheck", "missing bool value"),
            ("CompactHashCheck=maybe", "true or false"),
            ("LeaseCheckpoint=true", "LeaseCheckpoint=true is refused"),
            ("AllAlpha=true", "AllAlpha=true is refused: LeaseCheckpoint"),
        ] {
            let mistakes = check(text).unwrap_err();
            assert!(mistakes[0].contains(part), "{text}: {mistakes:?}");
        }
        assert_eq!(check("a=true,b=true").unwrap_err().len(), 2);
    }
}
