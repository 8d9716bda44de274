mod histories;
mod naive;
mod rules;
